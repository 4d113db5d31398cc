"""Fine-tuning modes: which parameters train, on which model, and how what comes of it is scored."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from src.errors import UserError

EVERYTHING, ATTENTION, BIASES, MLP, LINEAR = "all", "attention", "attention+bias", "mlp", "all-linear"
TRAINS = (EVERYTHING, ATTENTION, BIASES, MLP, LINEAR)
PARTS = {ATTENTION: ("attn",), BIASES: ("attn",), MLP: ("mlp",), LINEAR: ("attn", "mlp")}  # modules of a block, by name
NEVER, POSTHOC, ALWAYS = "never", "posthoc", "always"


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al., ICLR 2022): a matrix moves by `alpha / rank` times a product of rank `rank`."""

    rank: int
    alpha: float

    def __post_init__(self):
        problems = []
        if type(self.rank) is not int or self.rank < 1:
            problems.append(f"finetuning_mode.lora.rank is a positive whole number; got {self.rank}")
        if not isinstance(self.alpha, int | float) or not self.alpha > 0:
            problems.append(f"finetuning_mode.lora.alpha is a positive number; got {self.alpha}")
        if problems:
            raise UserError(problems)


@dataclass(frozen=True)
class Mode:
    """How models are fine-tuned and scored.

    files: the prefix of the files with fine-tuned weights; trains: one of TRAINS; linearized: whether the tangent model
    (Ortiz-Jimenez et al., 2023) is never used, used to score what the model itself was trained to be (posthoc), or
    always, in training and scoring; lora: LoRA on the matrices that train, in place of the matrices themselves.
    """

    name: str
    files: str
    trains: str
    linearized: str
    lora: LowRank | None

    def __post_init__(self):
        problems = []
        if self.trains not in TRAINS:
            problems.append(f"finetuning_mode.trains is {', '.join(TRAINS[:-1])} or {TRAINS[-1]}; got {self.trains}")
        if self.linearized not in (NEVER, POSTHOC, ALWAYS):
            problems.append(f"finetuning_mode.linearized is {NEVER}, {POSTHOC} or {ALWAYS}; got {self.linearized}")
        if self.lora and self.trains in (EVERYTHING, BIASES):
            problems.append(f"LoRA trains matrices: finetuning_mode.trains is {ATTENTION}, {MLP} or {LINEAR}; got {self.trains}")
        if self.lora and self.linearized == ALWAYS:
            problems.append("finetuning_mode.lora trains the model itself; with it, linearized is never or posthoc")
        if problems:
            raise UserError(problems)

    @property
    def trained_linearized(self) -> bool:
        return self.linearized == ALWAYS

    @property
    def scored_linearized(self) -> bool:
        return self.linearized != NEVER

    @property
    def is_usual(self) -> bool:
        """Whether all of the model itself trains, and is scored, as wherever nothing is said of a mode."""
        return (self.trains, self.linearized, self.lora) == (EVERYTHING, NEVER, None)

    @property
    def training(self) -> dict:
        """What decides fine-tuned weights, as json values; how they are scored does not."""
        return {"trains": self.trains, "linearized": self.trained_linearized, "lora": self.lora and asdict(self.lora)}


def trained(entries: Mapping[str, Tensor], blocks: str, trains: str) -> list[str]:
    """The names that train, of the parameters `entries`.

    `blocks`: a regular expression that matches a name up to its place in a block. Only what is inside a block's attention
    or feed-forward module counts as such: matrices, and with `attention+bias` the biases of their layers.
    Raises UserError if there is nothing of the kind.
    """
    if trains == EVERYTHING:
        return list(entries)
    parts = {key: key[match.end() :].split(".") for key in entries if (match := re.match(blocks, key))}
    inside = [key for key, (part, *_) in parts.items() if part in PARTS[trains]]
    found = [key for key in inside if entries[key].ndim >= 2 or (trains == BIASES and _is_bias(parts[key]))]
    if not found:
        raise UserError(
            f"this architecture has no {trains} parameters in blocks that are known here; use finetuning_mode.trains=all"
        )
    return found


def _is_bias(parts: Iterable[str]) -> bool:
    """Whether the last of these names is a linear layer's bias: attention has norms, too, in some architectures."""
    *modules, name = parts
    return name.endswith("bias") and not any("norm" in module or module.startswith("ln") for module in modules)
