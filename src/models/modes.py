"""Fine-tuning modes: which parameters train, on which model, and which model is scored."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from src.errors import UserError

EVERYTHING, ATTENTION, BIASES, MLP, LINEAR = "all", "attention", "attention+bias", "mlp", "all-linear"
TRAINS = (EVERYTHING, ATTENTION, BIASES, MLP, LINEAR)
_ATTENTIONS, _MLPS = ("attn", "SelfAttention", "EncDecAttention"), ("mlp", "DenseReluDense")
MODULES = {ATTENTION: _ATTENTIONS, BIASES: _ATTENTIONS, MLP: _MLPS, LINEAR: (*_ATTENTIONS, *_MLPS)}  # by their names in a block
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

    name: as in options and reports.
    files: prefix of the files with fine-tuned weights.
    trains: one of TRAINS.
    linearized: when the tangent model (Ortiz-Jimenez et al., 2023) is used in place of the model itself: never, only in
        scoring (posthoc), or in training and scoring (always).
    lora: LoRA on the matrices that train, in place of the matrices themselves; None for none.
    ia3: whether vectors train that scale keys, values and inner activations (Liu et al., NeurIPS 2022), and are merged.
    """

    name: str
    files: str
    trains: str
    linearized: str
    lora: LowRank | None
    ia3: bool = False

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
        if self.ia3 and (self.lora or self.linearized != NEVER or self.trains != EVERYTHING):
            problems.append("with finetuning_mode.ia3 all its vectors train: trains=all, linearized=never, without lora")
        if problems:
            raise UserError(problems)

    @property
    def trained_linearized(self) -> bool:
        """Whether the tangent model is the one that trains."""
        return self.linearized == ALWAYS

    @property
    def scored_linearized(self) -> bool:
        """Whether the tangent model is the one that is scored."""
        return self.linearized != NEVER

    @property
    def modality(self) -> str | None:
        """The modality of the models that have this mode; None for all."""
        return "text" if self.ia3 else "images" if self.scored_linearized else None

    @property
    def training(self) -> dict:
        """The fields that decide fine-tuned weights, as JSON values: all but how they are scored."""
        facts = {"trains": self.trains, "linearized": self.trained_linearized, "lora": self.lora and asdict(self.lora)}
        return {**facts, **({"ia3": True} if self.ia3 else {})}


def trained_parameters(entries: Mapping[str, Tensor], blocks: str, trains: str) -> list[str]:
    """Return the names of the parameters that train.

    Unless all do, only those inside a block's attention or feed-forward module count: matrices, and with `attention+bias`
    the biases of their layers.

    entries: all parameters.
    blocks: a regular expression for the beginning of a name, up to what is inside a block.
    trains: one of TRAINS.

    Raise UserError if there are none.
    """
    if trains == EVERYTHING:
        return list(entries)
    paths = {key: key[match.end() :].split(".") for key in entries if (match := re.match(blocks, key))}
    inside = [key for key, (module, *_) in paths.items() if module in MODULES[trains]]
    names = [key for key in inside if entries[key].ndim >= 2 or (trains == BIASES and _is_bias(paths[key]))]
    if not names:
        raise UserError(
            f"this architecture has no {trains} parameters in blocks that are known here; use finetuning_mode.trains=all"
        )
    return names


def _is_bias(path: Iterable[str]) -> bool:
    """Whether a path in a block is a linear layer's bias: attention has norms, too, in some architectures."""
    *modules, name = path
    return name.endswith("bias") and not any("norm" in module or module.startswith("ln") for module in modules)
