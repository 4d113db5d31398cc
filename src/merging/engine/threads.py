"""Work side by side on a CPU's cores: one thread each, which beats several threads on one piece."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier, local
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")
_this_thread = local()


@cache
def cores() -> ThreadPoolExecutor:
    """A worker a core, each computing alone: slices side by side stay in their cores' caches."""
    count = torch.get_num_threads()
    workers = ThreadPoolExecutor(count, initializer=_begin)
    started = Barrier(count)
    list(workers.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(count)  # what a worker set for itself also became the default of threads to come
    return workers


def side_by_side(work: Callable[[Given], Made], pieces: Iterable[Given], device: torch.device) -> Iterator[Made]:
    """`work` of each piece, in order, on the cores. A GPU takes them one after another, and so does a piece its own."""
    return map(work, pieces) if alone(device) else cores().map(work, pieces)


class Ahead(Mapping[str, Made]):
    """`make(key)` for each of `keys`; when one is asked for, the next few are begun on the other cores.

    Nothing is kept: a key that is asked for again is made again.
    """

    def __init__(self, keys: Iterable[str], make: Callable[[str], Made], device: torch.device):
        self._places = {key: place for place, key in enumerate(keys)}
        self._keys, self._make, self._device = list(self._places), make, device
        self._begun: dict[str, Future[Made]] = {}

    def __getitem__(self, key: str) -> Made:
        place = self._places[key]
        if alone(self._device):
            return self._make(key)
        for other in self._keys[place : place + 1 + torch.get_num_threads()]:
            if other not in self._begun:
                self._begun[other] = cores().submit(self._make, other)
        return self._begun.pop(key).result()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def alone(device: torch.device) -> bool:
    """Whether pieces are taken one after another here: on a GPU, and inside a piece."""
    return device.type != "cpu" or getattr(_this_thread, "is_a_core", False)


def _begin() -> None:
    _this_thread.is_a_core = True
    torch.set_num_threads(1)
