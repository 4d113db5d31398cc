"""Merges of task vectors that are scaled to one length first (`normalise=norms`)."""

from dataclasses import dataclass

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.norms import equalised, norm_warnings
from src.merging.method import MergeFamily, Wrapper


@dataclass(frozen=True)
class Normalised(Wrapper):
    """Any method that makes one vector, of task vectors that all have the median one's length."""

    def __post_init__(self):
        if not self.base.takes_equal_norms:
            raise UserError("normalise=norms is for methods that combine task vectors, without masks; leave it out")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return self.base(equalised(inputs))

    def notes(self, inputs: MergeInputs) -> list[str]:
        mended = norm_warnings(inputs)
        return [sentence for sentence in self.base.notes(inputs) if sentence not in mended]
