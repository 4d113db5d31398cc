"""One pass of a fine-tuned model over its task's data, in which a statistic is collected."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Generator

from src.errors import UserError, raise_any
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, GRAM_IN, GRAM_OUT
from src.models.family import TaskLike
from src.models.loader import seed_of
from src.state_dict import Lazy, StateDict
from src.statistics.fisher import FisherBlocks, FisherCollector, FisherDiagonal
from src.statistics.gram import GramCollector, means
from src.statistics.labels import LABELS, Labelled
from src.statistics.likelihood import Entries, Likelihood
from src.validation import is_whole

SPLITS = ("val", "train")
FISHERS: dict[str, type[FisherCollector]] = {FISHER_DIAG: FisherDiagonal, FISHER_BLOCK: FisherBlocks}


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


@dataclass(frozen=True)
class Collected:
    """A statistic by parameter.

    kind: a key of `engine.statistics.SHAPES`.
    entries: made when they are read.
    aliases: further parameters, by the one whose statistic is theirs, too.
    """

    kind: str
    entries: StateDict
    aliases: Mapping[str, str] = field(default_factory=dict)


def collect(
    family: Likelihood,
    entries: Entries,
    task: TaskLike,
    kind: str,
    settings: StatisticsSettings,
    batch_size: int,
    seen: Callable[[int], None] = lambda count: None,
) -> list[Collected]:
    """Return a statistic of a model on a task; with Gram matrices of gradients those of inputs, which come from one pass.

    entries: the model's parameters, on the device.
    kind: a key of `engine.statistics.SHAPES`.
    batch_size: of examples that pass through the model together; fewer where each one's gradient is held.
    seen: called with the number of examples of each batch.
    """
    if kind in FISHERS:
        fisher = FISHERS[kind](family, entries)
        for batch, weights in _labelled(family, entries, task, settings, fisher.examples_together(entries), seen):
            fisher.add(batch, weights)
        return [Collected(kind, Lazy(fisher.outline, fisher.mean))]
    grams = GramCollector(family, entries, gradients=kind == GRAM_OUT)
    for batch, weights in _labelled(family, entries, task, settings, batch_size, seen):
        grams.add(batch, weights)
    if not grams.inputs:
        raise UserError(f"{family.name} has no linear layers whose inputs can be seen; use a method without Gram matrices")
    inputs = Collected(GRAM_IN, means(grams.inputs), grams.aliases)
    return [inputs, Collected(GRAM_OUT, means(grams.outputs))] if kind == GRAM_OUT else [inputs]


def _labelled(
    family: Likelihood,
    entries: Entries,
    task: TaskLike,
    settings: StatisticsSettings,
    size: int,
    seen: Callable[[int], None],
) -> Iterator[Labelled]:
    """Yield the first examples of a split, in order, with labels and the weights of these."""
    left = settings.examples
    generator = Generator(family.device).manual_seed(seed_of(settings.seed))
    spans = family.spans(task, settings.split)
    for batch in chain.from_iterable(family.batches(task, settings.split, size, span) for span in spans):
        batch = batch if len(batch) <= left else batch.take(torch.arange(left))
        yield from LABELS[settings.labels](family, entries, batch, generator)
        seen(len(batch))
        left -= len(batch)
        if not left:
            return
