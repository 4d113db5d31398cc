"""The pre-trained model as it is: what every merge is measured against."""

from dataclasses import dataclass

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import Fixed, MergeFamily, Method


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Fixed):
    """The zero vector."""

    combines = False

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        zero = inputs.slicewise(lambda stack: stack[0].zero_())  # reads the models all the same, so that NaNs are found
        return MergeFamily(lambda coefficient: dict.fromkeys(inputs.tasks, zero))

    def coefficient(self, tasks: int) -> float:
        return 0.0

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        if coefficient != 0:
            raise UserError(f"method=zeroshot adds nothing: specify_lambda is 0 or left out; got {coefficient}")

    def lines_form(self) -> Method | None:
        raise UserError("method=zeroshot has no task vector for LiNeS to scale; leave method.apply_lines out")
