"""LoRA (Hu et al., ICLR 2022) on an image tower, through peft, in the files that peft reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from src.errors import UserError
from src.files import folder_beside
from src.models.modes import LowRank
from src.saving import save_file


@dataclass(frozen=True, eq=False)
class Adapted:
    """A tower with adapters. model: computes what the tower does; parameters: the adapters', by the names of their file."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]

    def save(self, entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
        """Write the folder of `path`, a weight file, with the configuration beside it; it appears when it is complete."""
        with folder_beside(path.parent) as draft:
            self.model.peft_config["default"].save_pretrained(draft)
            save_file(entries, draft / path.name, metadata)


def adapter(tower: nn.Module, lora: LowRank, names: Sequence[str]) -> Adapted:
    """`tower`, which is changed, with adapters of the matrices `names`.

    Raises UserError if peft is not installed or has no adapters for such layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils import get_peft_model_state_dict
    except ImportError as reason:
        raise UserError("--finetuning-mode=lora trains through peft, which is not installed; pip install peft") from reason
    layers = _layers(tower, names)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="|".join(map(re.escape, layers))
    )
    try:
        model = get_peft_model(tower, config)
    except (ValueError, NotImplementedError, TypeError) as reason:
        raise UserError(f"peft adapts no such layers ({reason}); choose another finetuning_mode.trains, or dropout=0") from reason
    by_storage = {leaf.data_ptr(): leaf for leaf in model.parameters() if leaf.requires_grad}
    saved = get_peft_model_state_dict(model)
    return Adapted(model, {name: by_storage[leaf.data_ptr()] for name, leaf in saved.items()})


def _layers(tower: nn.Module, names: Sequence[str]) -> list[str]:
    """The modules that matrices belong to: attention modules as a whole, which peft adapts with their output projection."""
    modules = dict(tower.named_modules())
    owners = (name.rpartition(".")[0] for name in names)
    return list(dict.fromkeys(
        above if isinstance(modules.get(above := owner.rpartition(".")[0]), nn.MultiheadAttention) else owner for owner in owners
    ))  # fmt: skip
