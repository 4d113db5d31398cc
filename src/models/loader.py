"""Batches of training examples, prefetched by worker processes: the same batches however many there are."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import TypeVar

import xxhash
from torch.utils.data import DataLoader, Dataset

from src.errors import UserError

ExampleId = tuple[int, int]  # the number of an epoch, and that of an example
T = TypeVar("T")
_workers: set[BaseProcess] = set()


def seed_of(*numbers: int) -> int:
    """Return a seed that follows from these numbers alone."""
    return xxhash.xxh3_64_intdigest(repr(numbers).encode()) >> 1


def load_batches(dataset: Dataset, batches: Iterable[Sequence[ExampleId]], workers: int, pinned: bool) -> Iterator[T]:
    """Yield `dataset.__getitems__(ids)` of each batch of ids, prefetched by worker processes where they can be forked.

    pinned: whether to return tensors in pinned memory, for copies to a GPU.

    Raise UserError where the dataset returned one: raised in a worker, DataLoader would wrap it in a traceback.
    """
    has_workers = "fork" in multiprocessing.get_all_start_methods() and workers > 0
    fork_options = {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _ignore_signals}
    options = fork_options if has_workers else {}
    others = set(multiprocessing.active_children())
    loader = iter(DataLoader(dataset, batch_sampler=_Batches(batches), collate_fn=_identity, pin_memory=pinned, **options))
    if has_workers:
        if not _workers:
            atexit.register(_end_workers)  # registered after DataLoader's own, which wait, and so called before them
            util.Finalize(None, _end_workers, exitpriority=100)  # the same where this process is a child of Python's
        _workers.update(set(multiprocessing.active_children()) - others)
    return map(_raise_user_error, loader)


class _Batches:
    """Batches of ids as DataLoader asks for them: by iteration alone."""

    def __init__(self, batches: Iterable[Sequence[ExampleId]]):
        self._batches = batches

    def __iter__(self) -> Iterator[Sequence[ExampleId]]:
        return iter(self._batches)


def _identity(batch: T) -> T:
    return batch


def _raise_user_error(batch: T | UserError) -> T:
    if isinstance(batch, UserError):
        raise batch
    return batch


def _end_workers() -> None:
    """Kill our workers: they ignore the SIGTERM with which Python ends its children, and would be waited for forever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader takes a worker's end for a failure
    for worker in _workers:
        if worker.is_alive():
            worker.kill()


def _ignore_signals(worker: int) -> None:
    """Leave signals to all processes of a job to the main one, which still needs a batch to finish its step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
