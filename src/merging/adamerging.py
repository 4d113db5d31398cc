"""AdaMerging (Yang et al., ICLR 2024): a coefficient for each task, or each task and layer, that makes predictions sure.

They minimise the entropy of the merged model's predictions on unlabelled examples, by default of the test data itself: a
transductive reference, not a merge without data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.optim import Adam

from src.errors import UserError, raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.unlabelled import PredictionEntropy
from src.merging.method import MergeFamily, Method, Unscaled
from src.task_vectors import TaskVector
from src.validation import is_number, is_whole

TASK, LAYER = "task", "layer"
SPLITS = ("test", "val")
KEPT_TOGETHER = 50  # iterations, which a killed run loses at most
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class AdaMerging(Unscaled):
    """The sum of the task vectors, each parameter's times coefficients from 0 to 1 that minimise the entropy of predictions.

    per: `task` for one coefficient a task, `layer` for one a task and parameter, as the released code counts layers.
    split: of the unlabelled examples, `test` or `val`.
    iterations: of Adam with the learning rate `lr`, from `initial_lambda`.
    batch_size: the examples of each task that an iteration sees, drawn anew by `seed`.
    """

    per: str
    split: str
    iterations: int
    lr: float
    initial_lambda: float
    batch_size: int
    seed: int

    def __post_init__(self):
        problems = []
        if self.per not in (TASK, LAYER):
            problems.append(f"method.per is {TASK} or {LAYER}; got {self.per}")
        if self.split not in SPLITS:
            problems.append(f"method.split is {' or '.join(SPLITS)}; got {self.split}")
        problems += [
            f"method.{name} is a positive whole number; got {number}"
            for name in ("iterations", "batch_size")
            if not is_whole(number := getattr(self, name), 1)
        ]
        if not is_number(self.lr) or self.lr <= 0:
            problems.append(f"method.lr is a positive number; got {self.lr}")
        if not is_number(self.initial_lambda) or not 0 <= self.initial_lambda <= 1:
            problems.append(f"method.initial_lambda is a number from 0 to 1; got {self.initial_lambda}")
        if not is_whole(self.seed):
            problems.append(f"method.seed is a whole number, at least 0; got {self.seed}")
        raise_any(problems)

    @property
    def unlabelled_split(self) -> str:
        return self.split

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        entropy = inputs.entropy_on(self.split, self.batch_size, self.seed)

        @lru_cache(maxsize=1)
        def vector() -> TaskVector:
            columns = self.columns(inputs)
            coefficients = self._learn(inputs, entropy, columns)
            inputs.notes.append(self._note(inputs.tasks, coefficients))
            return inputs.partwise(lambda key, part, stack: coefficients[:, columns[key]].to(stack) @ stack)

        return MergeFamily(lambda coefficient: dict.fromkeys(inputs.tasks, vector()))

    def lines_form(self) -> Method | None:
        raise UserError("method=adamerging learns how much of each layer to take itself; leave method.apply_lines out")

    def columns(self, inputs: MergeInputs) -> dict[str, int]:
        """Return the column of each changed parameter's coefficients, (tasks, columns)."""
        changed = filter(inputs.changed, inputs.outline)
        return {key: number if self.per == LAYER else 0 for number, key in enumerate(changed)}

    def _learn(self, inputs: MergeInputs, entropy: PredictionEntropy, columns: Mapping[str, int]) -> Tensor:
        """Return the coefficients, (tasks, columns), float64 on the CPU."""
        values = torch.full((len(inputs.tasks), max(columns.values(), default=0) + 1), self.initial_lambda, dtype=torch.float64)
        if not columns:
            return values  # no task changed anything
        state = torch.stack([values, *(torch.zeros_like(values) for _ in MOMENTS)])
        solved = inputs.solved and inputs.solved.about([self.description, entropy.question])
        entropy.plan(self.iterations)
        for start in range(0, self.iterations, KEPT_TOGETHER):
            steps = range(start, min(start + KEPT_TOGETHER, self.iterations))
            make = partial(self._after, steps, state, inputs, entropy, columns)
            state, _ = solved.get(f"{steps.stop} iterations", make) if solved else make()
        return state[0].clamp(0, 1)

    def _after(
        self, steps: range, state: Tensor, inputs: MergeInputs, entropy: PredictionEntropy, columns: Mapping[str, int]
    ) -> tuple[Tensor, dict]:
        """Return what `state` is after some steps, and no facts.

        state: coefficients before they are cut to 0 to 1, and Adam's moments of them, (3, tasks, columns).
        """
        values = state[0].clone().requires_grad_()
        optimizer = Adam([values], lr=self.lr)
        moments = {"step": torch.tensor(float(steps.start)), **dict(zip(MOMENTS, state[1:].clone()))}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
        for step in steps:
            coefficients = values.clamp(0, 1)
            optimizer.zero_grad()
            coefficients.backward(gradient_of(coefficients.detach(), columns, inputs, entropy, step))
            optimizer.step()
        return torch.stack([values.detach(), *(optimizer.state[values][moment] for moment in MOMENTS)]), {}

    def _note(self, tasks: tuple[str, ...], coefficients: Tensor) -> str:
        means = ", ".join(f"{task} {mean:.3f}" for task, mean in zip(tasks, coefficients.mean(1).tolist()))
        transductive = ", on which the model is scored, too: such figures are transductive" if self.split == "test" else ""
        what = "mean coefficients over layers" if self.per == LAYER else "coefficients"
        return f"learned from unlabelled {self.split} examples{transductive}; {what}: {means}"


def gradient_of(
    coefficients: Tensor, columns: Mapping[str, int], inputs: MergeInputs, entropy: PredictionEntropy, step: int
) -> Tensor:
    """Return the gradient of the tasks' summed entropy on the examples of a step, (tasks, columns), float64.

    That of a coefficient is the inner product of the merged weights' gradient and the task vector. So one model and its
    gradients are in memory, and the task vectors are streamed, however many there are.

    coefficients: (tasks, columns).
    columns: those of each changed parameter.
    """
    leaves = {key: _merged(key, coefficients[:, column], inputs).requires_grad_() for key, column in columns.items()}
    for value in entropy.by_task(step, {**inputs.pretrained, **leaves}):
        value.backward()
    gradient = torch.zeros_like(coefficients)
    for key, leaf in leaves.items():
        if leaf.grad is not None:
            flat = leaf.grad.reshape(-1)
            for products in inputs.each(key, lambda part, stack, flat=flat: stack @ flat[part]):
                gradient[:, columns[key]] += products.to(gradient)
    return entropy.all_reduce(gradient)


def _merged(key: str, coefficients: Tensor, inputs: MergeInputs) -> Tensor:
    """Return a parameter of the merged model, on the device, in its working dtype."""
    merged = inputs.pretrained[key].to(inputs.device, inputs.outline[key].dtype, copy=True).contiguous()
    flat = merged.view(-1)

    def add(part: slice, stack: Tensor) -> None:
        flat[part] += coefficients.to(stack) @ stack

    for _ in inputs.each(key, add):
        pass
    return merged
