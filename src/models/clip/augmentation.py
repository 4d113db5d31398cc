"""Training examples: augmented at random in worker processes, the same however many those are and wherever a run began."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import util

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.errors import UserError
from src.models.example_ids import Place, seed_of


class Augmented(Dataset):
    """Examples as a training step takes them: several at a time, each changed as its epoch and number say.

    examples: opens them, in the process that reads; change: of an image to uint8 (3, height, width), by torch's random
    numbers.
    """

    def __init__(self, examples: Callable[[], Dataset], change: Callable[[Image], Tensor], seed: int):
        self._examples, self._change, self._seed = examples, change, seed

    def __getitems__(self, places: Sequence[Place]) -> tuple[Tensor, Tensor] | UserError:
        """uint8 pixels (n, 3, height, width) and labels (n,); an error of the user's to mend, which is raised where it is read:
        DataLoader would wrap it in a traceback."""
        try:
            return self._read(places)
        except UserError as reason:
            return reason

    def _read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        examples, pixels, labels = self._examples(), [], []
        with torch.random.fork_rng(devices=[]):
            for epoch, index in places:
                image, label = examples[index]
                torch.default_generator.manual_seed(seed_of(self._seed, epoch, index))
                pixels.append(self._change(image))
                labels.append(label)
        return torch.stack(pixels), torch.tensor(labels)


def loaded(dataset: Dataset, batches: Iterable[Sequence[Place]], workers: int, pinned: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples of each batch of places, made ahead by worker processes, where the system can fork them.

    pinned: whether in memory that a GPU copies from without waiting.
    """
    forks = "fork" in multiprocessing.get_all_start_methods() and workers > 0
    apart = {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _deaf} if forks else {}
    made = iter(DataLoader(dataset, batch_sampler=_Given(batches), collate_fn=_as_it_is, pin_memory=pinned, **apart))
    if forks:
        atexit.register(_end_workers)  # registered after DataLoader's own, which wait, and so called before them
        util.Finalize(None, _end_workers, exitpriority=100)  # the same where this process is itself a child of Python's
    return map(_raised, made)


class _Given:
    """Batches of places as DataLoader asks for them: by iteration alone."""

    def __init__(self, batches: Iterable[Sequence[Place]]):
        self._batches = batches

    def __iter__(self) -> Iterator[Sequence[Place]]:
        return iter(self._batches)


def _as_it_is(made: tuple[Tensor, Tensor] | UserError) -> tuple[Tensor, Tensor] | UserError:
    return made


def _raised(made: tuple[Tensor, Tensor] | UserError) -> tuple[Tensor, Tensor]:
    if isinstance(made, UserError):
        raise made
    return made


def _end_workers() -> None:
    """Workers do not hear the SIGTERM with which Python ends its children, and would be waited for forever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader takes a worker's end for a failure
    for child in multiprocessing.active_children():
        child.kill()


def _deaf(worker: int) -> None:
    """A signal to all processes of a job is the main one's to answer, which still needs a batch to finish its step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
