"""Consensus (Wang et al., ICML 2024): a multi-task vector without the entries that too few tasks need.

Entries that no task's TALL mask selects are catastrophic in the paper's words, those of one task selfish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.compact import packed_size, unpack
from src.errors import UserError
from src.merging.engine.inputs import Ingredients
from src.merging.engine.masks import check_base, multi_task_vector
from src.merging.engine.threads import side_by_side
from src.merging.engine.trimming import check_percentage, trimmed
from src.merging.method import Family, Method, Searched, is_number
from src.merging.tall_mask import TallMask
from src.state_dict import Kept, Lazy, StateDict, blank
from src.task_vectors import TaskVector

PART = 2**16  # entries counted at a time: a multiple of 8


@dataclass(frozen=True, kw_only=True)
class Consensus(Searched):
    """The entries of the base method's vector that at least `prun_thre_k` tasks' masks select.

    k: percentage kept of each task vector before the base method (the masks are made of whole ones);
    tall_mask: what makes the masks; masks: packed, by task and key, if they were made earlier; else mask_lambda: the
    lambda to make them with, one number, one a task in their order, or by task.
    """

    base: Method
    tall_mask: TallMask
    k: float
    prun_thre_k: int
    mask_lambda: float | Sequence[float] | Mapping[str, float] | None
    masks: Mapping[str, StateDict] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "consensus")
        check_base(self.base)
        if type(self.prun_thre_k) is not int or self.prun_thre_k < 0:
            raise UserError(f"method.prun_thre_k counts tasks, from 0; got {self.prun_thre_k}")

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self._lambdas(tasks)

    def __call__(self, given: Ingredients) -> Family:
        masks = self.masks or self._made(given)
        shared = next(iter(self.base(self.used(given))(1.0).values()))

        def entry(key: str) -> Tensor:
            if not given.changed(key):
                return blank(given.outline[key], given.device)
            return _agreed(shared[key], [masks[task][key] for task in given.tasks], self.prun_thre_k)

        vector = TaskVector.of((Kept if given.keep else Lazy)(given.outline, entry))
        return Family.shared(given.tasks, vector, masks)

    @property
    def mask_base(self) -> dict:
        return self.tall_mask.mask_base

    @property
    def mask_method(self) -> Method | None:
        return self.tall_mask if self.masks is None and self.mask_lambda is None else None

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, masks=masks)

    def used(self, given: Ingredients) -> Ingredients:
        return self.base.used(trimmed(given, self.k))

    def _made(self, given: Ingredients) -> Mapping[str, StateDict]:
        lambdas = self._lambdas(given.tasks)
        if lambdas is None:
            raise UserError(
                "method=consensus needs masks: give their lambda, such as method.mask_lambda=0.4, or a file of saved ones, "
                "method.load_mask=PATH"
            )
        maker = replace(self.tall_mask, grid=sorted(set(lambdas.values())))
        return maker.chosen_masks(given, multi_task_vector(maker.base, given))(lambdas)

    def _lambdas(self, tasks: Sequence[str]) -> dict[str, float] | None:
        given = self.mask_lambda
        if given is None:
            return None
        if is_number(given):
            return dict.fromkeys(tasks, given)
        if isinstance(given, Mapping):
            found = {str(task): number for task, number in given.items()}
        else:
            found = dict(zip(tasks, given)) if isinstance(given, list | tuple) and len(given) == len(tasks) else {}
        if set(found) != set(tasks) or not all(map(is_number, found.values())):
            raise UserError(
                f"method.mask_lambda is one number, or one for each of the {len(tasks)} tasks ({', '.join(tasks)}); got {given}"
            )
        return found


def _agreed(values: Tensor, masks: Sequence[Tensor], least: int) -> Tensor:
    """A copy of `values` that is zero where fewer than `least` of the packed masks are on."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    flat, given = out.view(-1), values.reshape(-1)
    masks = [mask.to(values.device) for mask in masks]
    least = min(least, len(masks) + 1)  # a count that votes can hold

    def count(start: int) -> None:
        part = given[start : start + PART]
        votes = torch.zeros(len(part), dtype=torch.int16, device=values.device)
        for mask in masks:
            votes += unpack(mask[start // 8 : packed_size(start + len(part))], len(part)).view(torch.uint8)
        torch.mul(part, (votes >= least).view(torch.uint8), out=flat[start : start + PART])

    for _ in side_by_side(count, range(0, len(flat), PART), values.device):
        pass
    return out
