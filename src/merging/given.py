"""A merged model that another run or another program made, as it is: its file is scored like any merge."""

from dataclasses import dataclass

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method, Unscaled


@dataclass(frozen=True, kw_only=True)
class Given(Unscaled):
    """The vector from the pre-trained model to the one at the path `weights`."""

    weights: str

    needs_models = False
    combines = False

    @property
    def files(self) -> tuple[str, ...]:
        return (self.weights,)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return MergeFamily.shared(inputs.tasks, inputs.vector_to(self.weights))

    def lines_form(self) -> Method | None:
        raise UserError("method=given takes a model as it is; leave method.apply_lines out")
