"""Work side by side on a CPU's cores: one thread each, which beats several threads on one piece."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier, local
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")
_this_thread = local()


@cache
def thread_pool() -> ThreadPoolExecutor:
    """Return a pool of one thread a core, in each of which torch uses that thread only: slices stay in their core's cache."""
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=_init_thread)
    barrier = Barrier(count)
    list(pool.map(lambda _: barrier.wait(), range(count)))
    torch.set_num_threads(count)  # what a thread set for itself also became the default of threads to come
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=thread_pool.cache_clear)  # a forked process has none of its parent's threads


def parallel_map(work: Callable[[S], T], items: Iterable[S], device: torch.device) -> Iterator[T]:
    """Yield `work` of each item, in order, on the pool; one after another on a GPU, and inside work of the pool."""
    return map(work, items) if runs_serially(device) else thread_pool().map(work, items)


def runs_serially(device: torch.device) -> bool:
    """Whether items are worked on one after another: on a GPU, and inside work of the pool."""
    return device.type != "cpu" or getattr(_this_thread, "is_in_pool", False)


class Prefetched(Mapping[str, T]):
    """A mapping from each of `keys` to `make(key)`; when one is read, the next few are started on the other cores.

    Nothing is kept: a key that is read again is made again, and what was begun and is not among the next few is dropped.
    """

    def __init__(self, keys: Iterable[str], make: Callable[[str], T], device: torch.device):
        self._positions = {key: position for position, key in enumerate(keys)}
        self._keys, self._make, self._device = list(self._positions), make, device
        self._futures: dict[str, Future[T]] = {}

    def __getitem__(self, key: str) -> T:
        position = self._positions[key]
        if runs_serially(self._device):
            return self._make(key)
        window = self._keys[position : position + 1 + torch.get_num_threads()]
        for other in self._futures.keys() - set(window):
            self._futures.pop(other).cancel()
        for other in window:
            if other not in self._futures:
                self._futures[other] = thread_pool().submit(self._make, other)
        return self._futures.pop(key).result()

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _init_thread() -> None:
    _this_thread.is_in_pool = True
    torch.get_num_threads()  # a thread that has not asked yet takes the default when it first computes, whatever was set
    torch.set_num_threads(1)
