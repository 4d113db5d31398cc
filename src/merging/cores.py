"""Work side by side on a CPU's cores: one thread each, which beats several threads on one piece."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    alone = device.type != "cpu" or getattr(_this_thread, "is_a_core", False)
    return map(work, pieces) if alone else cores().map(work, pieces)


def _begin() -> None:
    _this_thread.is_a_core = True
    torch.set_num_threads(1)
