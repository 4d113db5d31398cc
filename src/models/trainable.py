"""What changes while a model is fine-tuned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:  # a family's protocol speaks of learners
    from src.models.family import Batch

Loss = Callable[[dict[str, Tensor], "Batch"], Tensor]
Save = Callable[[dict[str, Tensor], Path, Mapping[str, str]], None]


class Learner(nn.Module):
    """The parameters that train, by name, and the loss that they have on a batch: a module, so that its calls may be shared
    out among processes.

    loss: of the entries on a batch, summed over its examples; save: writes the fine-tuned model that entries make, with
    metadata; whole: how many parameters the model has that could be trained.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], loss: Loss, save: Save, whole: int):
        super().__init__()
        self.names, self.whole = tuple(parameters), whole
        self.values = nn.ParameterList(parameters.values())
        self._loss, self._save = loss, save

    @property
    def entries(self) -> dict[str, nn.Parameter]:
        return dict(zip(self.names, self.values))

    @property
    def count(self) -> int:
        """How many numbers train."""
        return sum(leaf.numel() for leaf in self.values)

    def forward(self, batch: "Batch") -> Tensor:
        return self._loss(self.entries, batch)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the fine-tuned model, which appears under its name when it is complete."""
        self._save({key: leaf.detach() for key, leaf in self.entries.items()}, path, metadata)
