"""What methods share that make task vectors sparse before another method merges them."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from src.errors import UserError
from src.merging.engine.edits import Edit
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.order_statistics import INTEGERS
from src.merging.method import MergeFamily, Wrapper, require_shared
from src.validation import is_number, is_whole


@dataclass(frozen=True)
class Sparsified(Wrapper):
    """A method that edits the task vectors, and leaves the rest to `base`: its trimming comes after, its coefficient counts."""

    def __post_init__(self):
        require_shared(self.base)
        if self.base.mask_base:
            raise UserError("method.base merges by masks, which are made of whole task vectors; choose another, such as ties")

    @property
    def drops_entries(self) -> bool:
        return True

    @property
    @abstractmethod
    def edit(self) -> Edit:
        """The edit of the task vectors."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return self.base(inputs.edited(self.edit))

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        return self.base.summed_inputs(inputs.edited(self.edit))


def keep(values: Tensor, bits: Tensor, limit: int | Tensor, probability: float | Tensor) -> None:
    """Make entries whose random bits, int32, are above a limit zero, in place, and divide the others by their probability to be
    kept; the bits are edited, too."""
    ones = bits.le_(limit).neg_()  # all bits set, or none: as a mask of integers it takes a third of the time of booleans
    values.view(INTEGERS[values.dtype]).bitwise_and_(ones)
    values.div_(probability)


def is_share(value: object) -> bool:
    """Whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def seed_problems(seed: object) -> list[str]:
    """Return what is wrong with a seed."""
    return [] if is_whole(seed) else [f"method.seed is a whole number, at least 0; got {seed}"]
