"""A text task: rows, and the templates that put them into words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import xxhash
from torch.utils.data import Dataset, Subset

from src.data.splits import LastRows, SplitRule
from src.data.task import Examples, Task
from src.data.text.examples import TextExample
from src.data.text.metrics import Metric, squad
from src.data.text.orders import capped, one_template, round_robin

MOST_MIXED = 500_000  # examples of a task in a mixture


class Wording(Protocol):
    """What puts the rows of a source into words, in one or several ways.

    is_generated: whether answers are generated, and not chosen.
    facts: all that it is made of, as JSON.
    notes: sentences on how it differs from the papers'.
    """

    is_generated: bool
    facts: list
    notes: Sequence[str]

    def __len__(self) -> int:
        """Return the number of its templates."""

    def example(self, row: Any, template: int) -> TextExample:
        """Return a row in the words of a template, under any key. Raise UserError if it has none for the row."""


@dataclass(frozen=True)
class AsWritten:
    """The wording of a source whose rows are examples already."""

    notes: ClassVar[Sequence[str]] = ()

    is_generated: bool = False

    @property
    def facts(self) -> list:
        return ["as written", self.is_generated]

    def __len__(self) -> int:
        return 1

    def example(self, row: TextExample, template: int) -> TextExample:
        return row


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """A text task, of examples `TextExample`; its source has rows.

    wording: what makes examples of them.
    metric: how good a generated answer is.
    split_rule: by default that of the P3 tasks, the last 1,000 rows in the order of their files.
    """

    modality: ClassVar[str] = "text"

    wording: Wording
    metric: Metric = squad
    split_rule: SplitRule = field(default=LastRows(1000), kw_only=True)

    @property
    def is_generated(self) -> bool:
        """Whether answers are generated, and not chosen."""
        return self.wording.is_generated

    @property
    def facts(self) -> list:
        """Name, wording, metric and kind of source."""
        return [self.name, self.wording.facts, self.metric.__name__, self.source.kind]

    def examples(self, split: str) -> Examples:
        """Return the examples of a split, one of each row, in the templates by turns."""
        rows = super().examples(split)
        return Subset(self._product(rows), round_robin(len(rows), len(self.wording)))

    def examples_in(self, split: str, template: int) -> Examples:
        """Return the examples of a split, all in one template."""
        rows = super().examples(split)
        return Subset(self._product(rows), one_template(len(rows), len(self.wording), template))

    def training_examples(self) -> Examples:
        """Return each training row in each template, one after another."""
        return self._product(super().examples("train"))

    def mixture_examples(self, most: int = MOST_MIXED, seed: int = 0) -> Examples:
        """Return `training_examples`, but at most `most`: the part of a mixture of tasks."""
        rows = super().examples("train")
        return Subset(self._product(rows), capped(len(rows), len(self.wording), most, self.name, seed))

    @property
    def notes(self) -> list[str]:
        """Sentences, to print and to record, on how rows and wording differ from the papers'. Needs the data."""
        return [*super().notes, *self.wording.notes]

    def fingerprint(self, split: str) -> str:
        """Return what changes whenever the examples of a split might have: the rows, or their wording."""
        return xxhash.xxh3_128_hexdigest(f"{super().fingerprint(split)}\n{json.dumps(self.wording.facts)}".encode())

    def _product(self, rows: Examples) -> "TemplatedRows":
        return TemplatedRows(rows, self.wording)


class TemplatedRows(Dataset):
    """All rows in all templates of a wording, row by row; each example is made when it is read."""

    def __init__(self, rows: Examples, wording: Wording):
        self._rows, self._wording = rows, wording

    def __len__(self) -> int:
        return len(self._rows) * len(self._wording)

    def __getitem__(self, index: int) -> TextExample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, template = divmod(int(index), len(self._wording))
        return replace(self._wording.example(self._rows[row], template), key=(row, template))
