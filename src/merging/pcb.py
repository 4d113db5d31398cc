"""PCB-merging (Du et al., NeurIPS 2024, Parameter Competition Balancing): a weighted mean of the task vectors' entries, by how
large each is in its own vector and how well the others agree with it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from src.errors import raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.order_statistics import INTEGERS, from_ordered, ordered
from src.merging.engine.selection import selected
from src.merging.method import MergeFamily, Searched
from src.validation import is_number

T = TypeVar("T")
CHUNK = {"cpu": 2**15, "cuda": 2**23}  # columns: on a CPU more leave a core's cache, and for fewer all wait for Python's lock


class Form(NamedTuple):
    """One of the released forms.

    clip: the share of a vector's magnitudes that are cut at either end.
    agreement: returns how well the tasks' entries agree, (tasks, n), of themselves and of their signed scaled magnitudes.
    """

    clip: float
    agreement: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PCB(Searched):
    """The mean of the task vectors' entries, weighted by their scores where these are among a vector's share `ratio` of largest.

    An entry's score is exp(T p^2), p its magnitude scaled to 0 to 1 within its task's vector, times its agreement with the
    others. Scales and thresholds are of whole vectors; where magnitudes are all equal p is 0, and a task whose scores are has no
    weight.

    form: `vision` or `language`, as released for these. In `vision`, the paper's, agreement does not depend on the vectors' size.
    """

    ratio: float
    form: str

    def __post_init__(self):
        super().__post_init__()
        problems = []
        if not (is_number(self.ratio) and 0 < self.ratio <= 1):
            problems.append(f"method.ratio is the share of entries that count, above 0 and up to 1; got {self.ratio}")
        if self.form not in list(FORMS):
            problems.append(f"method.form is {' or '.join(FORMS)}; got {self.form}")
        raise_any(problems)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        size, form = inputs.size, FORMS[self.form]
        ends = [int(size * form.clip) + 1, max(int(size * (1 - form.clip) - 1), 0) + 1]
        magnitudes = _limits(inputs, lambda stack: stack.abs_().view(INTEGERS[stack.dtype]), ends)

        def scores(stack: Tensor) -> Tensor:
            for part in stack.split(CHUNK[stack.device.type], 1):
                part.copy_(_scores(form, part, _scaled(part, magnitudes)))
                ordered(part)
            return stack.view(INTEGERS[stack.dtype])

        limits = _limits(inputs, scores, [min(int(size * (1 - self.ratio)), size - 1) + 1, size])

        def merge(stack: Tensor) -> Tensor:
            return torch.cat([merge_part(part) for part in stack.split(CHUNK[stack.device.type], 1)])

        def merge_part(stack: Tensor) -> Tensor:
            scaled = _scaled(stack, magnitudes)
            weights = limits.unit(_scores(form, stack, scaled))
            total = weights.sum(0).clamp_min_(1e-12)
            return magnitudes.clip(stack.abs()).copysign_(stack).mul_(weights).sum(0).div_(total)

        return MergeFamily.shared(inputs.tasks, inputs.slicewise(merge))


@dataclass(frozen=True)
class Limits:
    """Where each task's numbers are cut, (tasks, 1) each."""

    low: Tensor
    high: Tensor

    def clip(self, values: Tensor) -> Tensor:
        """Return numbers of each task, (tasks, n), between its limits; edited in place."""
        return torch.minimum(torch.maximum(values, self.low.to(values), out=values), self.high.to(values), out=values)

    def unit(self, values: Tensor) -> Tensor:
        """Return numbers clipped and scaled, 0 at the lower limit and 1 at the higher one, 0 where these are one; in place."""
        spread = (self.high - self.low).to(values)
        return self.clip(values).sub_(self.low.to(values)).mul_(torch.where(spread > 0, 1 / spread, 0.0))


def _scaled(stack: Tensor, magnitudes: Limits) -> Tensor:
    """Return magnitudes from 0 to 1, with the entries' signs; 0 of entries that are 0."""
    return magnitudes.unit(stack.abs()).mul_(stack.sign())


def _scores(form: Form, stack: Tensor, scaled: Tensor) -> Tensor:
    return scaled.square().mul_(len(stack)).exp_().mul_(form.agreement(stack, scaled))


def _tanh_coefficients(count: int) -> list[float]:
    """Return a, b, c .. by which tanh(x) is a x + b x^3 + c x^5 .. on [-1, 1], interpolated at Chebyshev's nodes of x^2."""
    squares = (1 + torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * torch.pi / count)) / 2
    roots = squares.sqrt()
    return torch.linalg.solve(torch.linalg.vander(squares), roots.tanh() / roots).tolist()


TANH = _tanh_coefficients(7)  # to 4e-8


def _pairwise(_: Tensor, scaled: Tensor) -> Tensor:
    """Return the sum over tasks j of tanh(n_t n_j), (tasks, n), by sums of powers of n: as fast for many tasks as for few."""
    squares, powers, sums = scaled.square(), scaled.clone(), []
    for coefficient in TANH:
        sums.append(powers.sum(0).mul_(coefficient))
        powers.mul_(squares)
    total = torch.zeros_like(scaled)
    for of_power in reversed(sums):
        torch.addcmul(of_power, total, squares, out=total)
    return total.mul_(scaled)


def _with_the_sum(stack: Tensor, _: Tensor) -> Tensor:
    return (stack * stack.sum(0)).tanh_()


FORMS = {"vision": Form(0.01, _pairwise), "language": Form(1e-4, _with_the_sum)}


def _limits(inputs: MergeInputs, integers: Callable[[Tensor], Tensor], ranks: list[int]) -> Limits:
    """Return the numbers of two ranks among a function of each task's entries, which is 0 of zeros.

    integers: returns what the function's numbers are ordered by, (tasks, n); see `ordered`.
    """
    dtype = max((leaf.dtype for leaf in inputs.outline.values()), key=lambda dtype: dtype.itemsize)

    def scan(visit: Callable[[Tensor], T], step: int = 1) -> Iterable[T]:
        return inputs.scan_together(lambda stack: visit(integers(stack.to(dtype))), step)

    found = selected(scan, len(inputs.tasks), ranks, inputs.size, inputs.unchanged_size, INTEGERS[dtype])
    return Limits(*from_ordered(found, dtype).T[..., None])
