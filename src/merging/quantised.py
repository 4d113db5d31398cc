"""Task vector quantisation (Kim et al., ICCV 2025): what is kept for several tasks as codes of a few bits a number."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from src.compact.form import ENTRY, LEFT, OFFSET, RIGHT, Compact, kind_and_key
from src.compact.quantisation import Quantiser, decoded, encoded
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Wrapper
from src.state_dict import Lazy, StateDict, outline


@dataclass(frozen=True)
class Quantised(Wrapper):
    """A method whose task vectors, or the vector that its masks select from, are what their codes stand for.

    bits: of a code.
    per: what shares a step (see `compact.quantisation.Quantiser`).
    base_bits: of the mean task vector's codes; each task's are then of its offset from what those stand for, so that their error
        is made up for (residual quantisation). None for codes of the task vectors themselves.
    """

    bits: int
    per: str
    base_bits: int | None

    def __post_init__(self):
        if not self.base.per_task:
            raise UserError(
                "bundle.bits quantises what is kept for each task, and this method makes one model for all; leave it out, or "
                "choose a method that makes a model for each task, such as method=individual"
            )

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        family = self.base(inputs)
        codes: dict[int, tuple[StateDict, Lazy]] = {}  # of shared vectors, by identity: a search asks for them again and again

        def compact(coefficients: Mapping[str, float]) -> Compact:
            form = family.compact(coefficients)
            self._check(form)
            if id(form.shared) not in codes:
                codes[id(form.shared)] = form.shared, self._shared(form)
            shared = codes[id(form.shared)][1]
            return Compact(form.outline, {task: self._part(form, task, shared) for task in form.parts}, shared)

        return MergeFamily.of_compact(inputs.tasks, compact)

    @property
    def mask_base(self) -> dict:
        """That of a quantised vector: masks of several lambdas are chosen by what they select from it."""
        return {**self.description, "base": self.base.mask_base} if self.base.mask_base else {}

    def _check(self, form: Compact) -> None:
        """Raise UserError for compact forms that are not quantised."""
        kinds = {kind_and_key(name)[0] for part in form.parts.values() for name in outline(part)}
        if kinds & {LEFT, RIGHT}:
            raise UserError(
                "bundle.bits quantises vectors, and this method keeps low-rank factors; leave it out, and keep fewer triplets "
                "with method.rank_fraction=0.05, say"
            )
        if self.base_bits is not None and kinds - {ENTRY}:
            raise UserError(
                "bundle.base_bits is of the mean of task vectors, which this method does not keep; leave it out, or choose "
                "method=individual"
            )

    def _shared(self, form: Compact) -> Lazy:
        """Return the codes of the vector that masks select from, or of the mean task vector."""
        if self.base_bits is None:
            return encoded(form.shared, outline(form.shared), Quantiser(self.bits, self.per), is_held=True)
        vectors = [form.vector(task) for task in form.parts]
        kept = {kind_and_key(name)[1]: None for part in form.parts.values() for name in outline(part)}

        def mean(key: str) -> Tensor:
            return sum(vector[key] for vector in vectors) / len(vectors)

        tree = Lazy({key: form.outline[key] for key in kept}, mean)
        return encoded(tree, kept, Quantiser(self.base_bits, self.per), is_held=True)

    def _part(self, form: Compact, task: str, shared: StateDict) -> StateDict:
        """Return a task's part with codes of its entries, or of their offsets, in their place."""
        part, quantiser = form.parts[task], Quantiser(self.bits, self.per)
        if self.base_bits is None:
            return encoded(part, [name for name in outline(part) if name.startswith(ENTRY)], quantiser, is_held=False)
        vector, mean = form.vector(task), decoded(shared, form.outline)
        shapes = {OFFSET + key: leaf for key, leaf in outline(mean).items()}
        offsets = Lazy(shapes, lambda name: vector[kind_and_key(name)[1]] - mean[kind_and_key(name)[1]])
        return encoded(offsets, shapes, quantiser, is_held=False)
