"""Consensus (Wang et al., ICML 2024): a multi-task vector without the entries that too few tasks need.

Entries that no task's TALL mask selects are catastrophic in the paper's words, those of one task selfish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.compact.packing import packed_size, unpack
from src.elementwise import chunk_size, zeros_view
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.threads import parallel_map
from src.merging.engine.trimming import VECTOR, check_percentage, check_scope, trimmed
from src.merging.method import MergeFamily, Method, Searched, multi_task_vector, require_shared
from src.merging.tall_mask import TallMask
from src.state_dict import Lazy, Memoized, StateDict
from src.task_vectors import TaskVector
from src.validation import is_number, is_whole

VOTE_CHUNK = 2**16  # entries counted at a time by each core: a multiple of 8


@dataclass(frozen=True, kw_only=True)
class Consensus(Searched):
    """The entries of the base method's vector that at least `prun_thre_k` tasks' masks select.

    base: makes the multi-task vector.
    tall_mask: makes the masks.
    k: percentage kept of each task vector before the base method (the masks are made of whole ones).
    scope: `vector` for that percentage of each task vector, `tensor` of each of its parameters.
    prun_thre_k: number of masks that must select an entry.
    mask_lambda: lambda of the masks: one number, one a task in their order, or by task; None to choose it.
    masks: packed, by task and key, if they were made earlier.
    """

    base: Method
    tall_mask: TallMask
    k: float
    prun_thre_k: int
    mask_lambda: float | Sequence[float] | Mapping[str, float] | None
    scope: str = VECTOR
    masks: Mapping[str, StateDict] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "consensus")
        check_scope(self.scope)
        require_shared(self.base)
        if not is_whole(self.prun_thre_k):
            raise UserError(f"method.prun_thre_k counts tasks, from 0; got {self.prun_thre_k}")

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self._lambdas(tasks)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        masks = self.masks or self._make_masks(inputs)
        shared = next(iter(self.base(trimmed(inputs, self.k, self.scope))(1.0).values()))

        def entry(key: str) -> Tensor:
            if not inputs.changed(key):
                return zeros_view(inputs.outline[key], inputs.device)
            return _masked_by_vote(shared[key], [masks[task][key] for task in inputs.tasks], self.prun_thre_k)

        vector = TaskVector.of((Memoized if inputs.keep else Lazy)(inputs.outline, entry))
        return MergeFamily.shared(inputs.tasks, vector, masks)

    @property
    def mask_base(self) -> dict:
        return self.tall_mask.mask_base

    @property
    def mask_method(self) -> Method | None:
        return self.tall_mask if self.masks is None and self.mask_lambda is None else None

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, masks=masks)

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        return self.base.summed_inputs(trimmed(inputs, self.k, self.scope))

    def _make_masks(self, inputs: MergeInputs) -> Mapping[str, StateDict]:
        lambdas = self._lambdas(inputs.tasks)
        if lambdas is None:
            raise UserError(
                "method=consensus needs masks: give their lambda, such as method.mask_lambda=0.4, or a file of saved ones, "
                "method.load_mask=PATH"
            )
        maker = replace(self.tall_mask, grid=sorted(set(lambdas.values())))
        return maker.masks_by_lambda(inputs, multi_task_vector(maker.base, inputs))(lambdas)

    def _lambdas(self, tasks: Sequence[str]) -> dict[str, float] | None:
        """Return mask_lambda by task. Raise UserError unless it is a number for each."""
        value = self.mask_lambda
        if value is None:
            return None
        if is_number(value):
            return dict.fromkeys(tasks, value)
        if isinstance(value, Mapping):
            lambdas = {str(task): number for task, number in value.items()}
        else:
            lambdas = dict(zip(tasks, value)) if isinstance(value, list | tuple) and len(value) == len(tasks) else {}
        if set(lambdas) != set(tasks) or not all(map(is_number, lambdas.values())):
            raise UserError(f"method.mask_lambda is one number, or one for each task ({', '.join(tasks)}); got {value}")
        return lambdas


def _masked_by_vote(values: Tensor, masks: Sequence[Tensor], least: int) -> Tensor:
    """Return a copy of `values` that is zero where fewer than `least` of the packed masks are on."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    flat, source = out.view(-1), values.reshape(-1)
    masks = [mask.to(values.device) for mask in masks]
    least = min(least, len(masks) + 1)  # int16, which votes are counted in, may not hold what a user types
    size = VOTE_CHUNK if values.device.type == "cpu" else chunk_size(values.device)

    def vote(start: int) -> None:
        chunk = source[start : start + size]
        votes = torch.zeros(len(chunk), dtype=torch.int16, device=values.device)
        for mask in masks:
            votes += unpack(mask[start // 8 : packed_size(start + len(chunk))], len(chunk)).view(torch.uint8)
        torch.mul(chunk, (votes >= least).view(torch.uint8), out=flat[start : start + size])

    for _ in parallel_map(vote, range(0, len(flat), size), values.device):
        pass
    return out
