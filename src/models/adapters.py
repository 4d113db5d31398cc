"""LoRA (Hu et al., ICLR 2022) on a network's matrices: factors that peft initialises, and files that peft reads."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.checkpoints.peft.config import CONFIG
from src.checkpoints.peft.reading import INNER_MULTIPLICITY, INNER_PROJECTION, LAST_VERSION_COUNTING_TWICE, counts_twice
from src.checkpoints.shards import ADAPTER
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.models.modes import LowRank
from src.runtime.files import folder_beside


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """The low-rank factors that train in place of a tower's matrices.

    parameters: the factors, by the names that peft's file gives them.
    products: by the name of a matrix, the names of its (rank, inputs) and (outputs, rank) factors, and the scale of their
        product.
    config: peft's.
    """

    parameters: dict[str, nn.Parameter]
    products: dict[str, tuple[str, str, float]]
    config: Any

    def weights(self, entries: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the matrices of `reference` plus the products of the factors `entries`: what peft would merge."""
        return {
            name: reference[name] + scale * (entries[up] @ entries[down]) for name, (down, up, scale) in self.products.items()
        }

    def save(self, entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
        """Write the folder of `path`, the weight file, with the configuration beside it; it appears when it is complete.

        Raise UserError for a path that is in no folder of its own.
        """
        folder = path.parent
        if path.name != ADAPTER or (folder.exists() and not {file.name for file in folder.iterdir()} <= {ADAPTER, CONFIG}):
            raise UserError(f"an adapter is a folder of its own with {ADAPTER} in it, and {path} is not; choose another place")
        with folder_beside(folder) as draft:
            self.config.save_pretrained(draft)
            save_file(entries, draft / ADAPTER, metadata)


def add_lora(tower: nn.Module, lora: LowRank, names: Sequence[str]) -> LoraFactors:
    """Return LoRA's factors for the matrices `names` of `tower`, as peft initialises and stores them.

    `tower` itself is modified; do not use it afterwards.

    Peft's own forward pass adds products to attention's weights and subtracts them again, which moves those by rounding; a
    run that was stopped would not go on to the same bits. So `LoraFactors.weights` adds the products, times the scale that
    they have in peft (see `src.checkpoints.peft`).

    Raise UserError if peft is not installed, is newer than what is known of it, or has no adapters for such layers.
    """
    try:
        from peft import LoraConfig, __version__, get_peft_model
        from peft.utils import get_peft_model_state_dict
    except ImportError as error:
        raise UserError("--finetuning-mode=lora needs peft, which is not installed; pip install peft") from error
    pattern = "|".join(map(re.escape, _layers(tower, names)))
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads what transformers is about to rename
            model = get_peft_model(tower, config)
    except ValueError as error:
        raise UserError(f"peft adapts no such layers ({error}); choose another finetuning_mode.trains") from error
    by_storage = {leaf.data_ptr(): leaf for leaf in model.parameters() if leaf.requires_grad}
    parameters = {name: by_storage[leaf.data_ptr()] for name, leaf in get_peft_model_state_dict(model).items()}
    if any(INNER_PROJECTION in key for key in parameters) and not counts_twice(__version__):
        newest = ".".join(map(str, LAST_VERSION_COUNTING_TWICE))
        raise UserError(f"what peft {__version__} makes of attention is not known here; pip install 'peft<={newest}'")
    products = {}
    for down in (key for key in parameters if ".lora_A." in key):
        layer, multiplicity = down.removeprefix("base_model.model.").partition(".lora_A.")[0], 1
        if layer.endswith(INNER_PROJECTION):
            layer, multiplicity = layer.replace(".base_layer.", "."), INNER_MULTIPLICITY
        name = next(name for name in (f"{layer}.in_proj_weight", f"{layer}.weight") if name in names)
        products[name] = down, down.replace(".lora_A.", ".lora_B."), multiplicity * lora.alpha / lora.rank
    return LoraFactors(parameters, products, config)


def _layers(tower: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the modules that matrices belong to.

    Of an attention module it is the whole, which peft adapts with its output projection.
    """
    modules = dict(tower.named_modules())
    owners = (name.rpartition(".")[0] for name in names)
    return list(dict.fromkeys(
        parent if isinstance(modules.get(parent := owner.rpartition(".")[0]), nn.MultiheadAttention) else owner
        for owner in owners
    ))  # fmt: skip
