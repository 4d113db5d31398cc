"""LoRA (Hu et al., ICLR 2022) on an image tower: adapters that peft starts, and files that peft reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.checkpoints.peft.config import CONFIG
from src.checkpoints.peft.reading import COUNTED_TWICE, INNER, MULTIPLICITY, counts_twice
from src.checkpoints.shards import ADAPTER
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.models.modes import LowRank
from src.runtime.files import folder_beside


@dataclass(frozen=True, eq=False)
class Adapted:
    """The factors of a tower's adapters. parameters: the factors, by the names of their file; products: by the name of a
    matrix, the names of its (rank, inputs) and (outputs, rank) factors, and what their product counts; config: peft's."""

    parameters: dict[str, nn.Parameter]
    products: dict[str, tuple[str, str, float]]
    config: Any

    def weights(self, entries: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The matrices that `entries` make of those of `reference`, which are never touched: what peft would merge."""
        return {
            name: reference[name] + scale * (entries[up] @ entries[down]) for name, (down, up, scale) in self.products.items()
        }

    def save(self, entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
        """Write the folder of `path`, a weight file, with the configuration beside it; it appears when it is complete.

        Raises UserError for a path that is in no folder of its own.
        """
        folder = path.parent
        if path.name != ADAPTER or (folder.exists() and not {file.name for file in folder.iterdir()} <= {ADAPTER, CONFIG}):
            raise UserError(f"an adapter is a folder of its own with {ADAPTER} in it, and {path} is not; choose another place")
        with folder_beside(folder) as draft:
            self.config.save_pretrained(draft)
            save_file(entries, draft / ADAPTER, metadata)


def adapter(tower: nn.Module, lora: LowRank, names: Sequence[str]) -> Adapted:
    """Adapters of the matrices `names` of `tower`, which is changed, as peft starts and stores them.

    Peft's own forward pass adds products to attention's weights and takes them off again, which moves those by rounding; a
    run that was stopped would not go on to the same bits. So the products are added here, and count what they count there
    (see `src.checkpoints.peft`). Raises UserError if peft is not installed, is too new for what is known of it, or has no
    adapters for such layers.
    """
    try:
        from peft import LoraConfig, __version__, get_peft_model
        from peft.utils import get_peft_model_state_dict
    except ImportError as reason:
        raise UserError("--finetuning-mode=lora needs peft, which is not installed; pip install peft") from reason
    layers = "|".join(map(re.escape, _layers(tower, names)))
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers)
    try:
        model = get_peft_model(tower, config)
    except ValueError as reason:
        raise UserError(f"peft adapts no such layers ({reason}); choose another finetuning_mode.trains") from reason
    by_storage = {leaf.data_ptr(): leaf for leaf in model.parameters() if leaf.requires_grad}
    saved = {name: by_storage[leaf.data_ptr()] for name, leaf in get_peft_model_state_dict(model).items()}
    if any(INNER in key for key in saved) and not counts_twice(__version__):
        known = ".".join(map(str, COUNTED_TWICE))
        raise UserError(f"what peft {__version__} makes of attention is not known here; pip install 'peft<={known}'")
    products = {}
    for down in (key for key in saved if ".lora_A." in key):
        where, multiplicity = down.removeprefix("base_model.model.").partition(".lora_A.")[0], 1
        if where.endswith(INNER):
            where, multiplicity = where.replace(".base_layer.", "."), MULTIPLICITY
        name = next(name for name in (f"{where}.in_proj_weight", f"{where}.weight") if name in names)
        products[name] = down, down.replace(".lora_A.", ".lora_B."), multiplicity * lora.alpha / lora.rank
    return Adapted(saved, products, config)


def _layers(tower: nn.Module, names: Sequence[str]) -> list[str]:
    """The modules that matrices belong to: attention modules as a whole, which peft adapts with their output projection."""
    modules = dict(tower.named_modules())
    owners = (name.rpartition(".")[0] for name in names)
    return list(dict.fromkeys(
        above if isinstance(modules.get(above := owner.rpartition(".")[0]), nn.MultiheadAttention) else owner for owner in owners
    ))  # fmt: skip
