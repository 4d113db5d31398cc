"""One pass of a fine-tuned model over its task's data, in which a statistic is collected."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Generator

from src.errors import raise_any
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, GRAM_IN, GRAM_OUT
from src.models.family import Batch, TaskLike
from src.models.loader import seed_of
from src.statistics.collector import Collector, Sums
from src.statistics.fisher import FisherBlocks, FisherDiagonal
from src.statistics.gram import GramCollector
from src.statistics.labels import EMPIRICAL, LABELS
from src.statistics.likelihood import Entries, Likelihood
from src.statistics.state import CollectionState
from src.validation import is_whole

SPLITS = ("val", "train")
COLLECTORS: dict[str, Callable[[Likelihood, Entries], Collector]] = {
    FISHER_DIAG: FisherDiagonal,
    FISHER_BLOCK: FisherBlocks,
    GRAM_IN: partial(GramCollector, gradients=False),
    GRAM_OUT: partial(GramCollector, gradients=True),
}


@dataclass(frozen=True)
class StatisticsSettings:
    """What statistics are collected on.

    split: of the task's data.
    examples: the first ones of it, at most.
    labels: a key of LABELS.
    seed: of labels that are drawn.
    """

    split: str
    examples: int
    labels: str
    seed: int

    def __post_init__(self):
        problems = []
        if self.split not in SPLITS:
            problems.append(f"statistics.split is {' or '.join(SPLITS)}; got {self.split}")
        if not is_whole(self.examples, 1):
            problems.append(f"statistics.examples is a positive whole number; got {self.examples}")
        if self.labels not in list(LABELS):
            problems.append(f"statistics.labels is one of {', '.join(LABELS)}; got {self.labels}")
        if not is_whole(self.seed):
            problems.append(f"statistics.seed is a whole number, at least 0; got {self.seed}")
        raise_any(problems)

    @property
    def reads_labels(self) -> bool:
        """Whether gradients are of the data's own labels."""
        return self.labels == EMPIRICAL


def collect(
    family: Likelihood,
    entries: Entries,
    task: TaskLike,
    kind: str,
    settings: StatisticsSettings,
    batch_size: int,
    state: CollectionState | None = None,
    seen: Callable[[int], None] = lambda count: None,
) -> list[Sums]:
    """Return a statistic of a model on a task; with Gram matrices of gradients those of inputs, which come from one pass.

    entries: the model's parameters, on the device.
    kind: a key of COLLECTORS.
    batch_size: of examples that pass through the model together; fewer where each one's gradient is held.
    state: where a killed collection is gone on with from; None to begin, and keep nothing.
    seen: called with the number of examples of each batch.
    """
    collector = COLLECTORS[kind](family, entries)
    batches = first_batches(family, task, settings, collector.together(batch_size))
    done = state.load(collector.statistics, family.device) if state else 0
    for number, (start, batch) in enumerate(batches, start=1):
        if number > done:
            generators = [Generator().manual_seed(seed_of(settings.seed, start + row)) for row in range(len(batch))]
            for labelled, weights in LABELS[settings.labels](family, entries, batch, generators):
                collector.add(labelled, weights)
            if state:
                state.save_if_due(collector.statistics, number)
        seen(len(batch))
    return collector.statistics


def first_batches(family: Likelihood, task: TaskLike, settings: StatisticsSettings, size: int) -> Iterator[tuple[int, Batch]]:
    """Yield the first examples of a split, in batches of `size` at most, in order: the number of the first of a batch, and it."""
    start, spans = 0, family.spans(task, settings.split)
    for batch in chain.from_iterable(family.batches(task, settings.split, size, span) for span in spans):
        left = settings.examples - start
        yield start, batch if len(batch) <= left else batch.take(torch.arange(left))
        start += len(batch)
        if start >= settings.examples:
            return
