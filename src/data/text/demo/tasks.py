"""Eight small text tasks, written from a seed: the text demo needs no download and still behaves like a benchmark.

Three need knowledge of words (News, Reviews, Odd), one arithmetic (Sums), and four have their answer in a passage alone (Rooms,
Shades, Diary, Notes). The answers of Notes are generated, all others chosen. The demo's T5 was pre-trained on plain
questions of the same kinds, asked in other words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar

import xxhash
from torch.utils.data import Dataset

from src.data.task import BundledSource
from src.data.text.demo import contents
from src.data.text.demo.contents import Content
from src.data.text.examples import TextExample
from src.data.text.task import AsWritten, TextTask

SIZES = {"train": 3000, "val": 300, "test": 1000}  # examples of each task, by subset
QUARTERS = ("train", "train", "val", "test")  # the subset of each quarter of all contents


@dataclass(frozen=True)
class WrittenTask(BundledSource):
    """One task of the text demo; the source of its own examples.

    draw: what draws the content of an example.
    templates: prompts with the fields of contents in braces; examples take them in turn.
    """

    name: str
    draw: Callable[[Random], Content]
    templates: tuple[str, ...]

    kind: ClassVar[str] = "Written"

    def example(self, subset: str, index: int) -> TextExample:
        """Return an example, which follows from the task, the subset and its index alone.

        Every content belongs to one subset, so nothing that is asked in training is asked in testing in other words.
        """
        random = Random(f"{self.name}/{subset}/{index}")
        content = self.draw(random)
        while subset_of(content) != subset:
            content = self.draw(random)
        template = index % len(self.templates)
        return TextExample(
            input=self.templates[template].format(**content.fields),
            target=content.answer,
            choices=content.choices,
            label=content.choices.index(content.answer) if content.choices else None,
            references=() if content.choices else (content.answer,),
            key=(index, template),
        )

    @property
    def is_generated(self) -> bool:
        """Whether answers are generated, and not chosen."""
        return not self.example("train", 0).choices

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(SIZES)

    def load(self, subset: str) -> "WrittenExamples":
        """Return all examples of a subset."""
        return WrittenExamples(self, subset)

    def fingerprint(self, subset: str) -> str:
        """Return the digest of all examples of a subset."""
        return self.load(subset).digest


def subset_of(content: Content) -> str:
    """Return the one subset that a content may be in."""
    return QUARTERS[xxhash.xxh3_64_intdigest("\n".join(content.fields.values()).encode()) % len(QUARTERS)]


class WrittenExamples(Dataset):
    """The examples of one subset of a task, each written when it is read."""

    def __init__(self, task: WrittenTask, subset: str):
        self._task, self._subset = task, subset

    def __len__(self) -> int:
        return SIZES[self._subset]

    def __getitem__(self, index: int) -> TextExample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._task.example(self._subset, int(index))

    @cached_property
    def digest(self) -> str:
        """The digest of all its examples."""
        return xxhash.xxh3_128_hexdigest("\n".join(map(repr, self)).encode())


def tasks() -> dict[str, TextTask]:
    """Return the demo's text tasks by name."""
    return {task.name: TextTask(task.name, task, AsWritten(is_generated=task.is_generated)) for task in WRITTEN_TASKS}


WRITTEN_TASKS = (
    WrittenTask(
        "News",
        contents.news,
        ("report: {report}. topic?", "{report}. this report is about", "read: {report}. which topic is this?"),
    ),
    WrittenTask(
        "Reviews",
        contents.reviews,
        ("review: {review}. verdict?", "{review}. this review is", "read: {review}. which verdict is this?"),
    ),
    WrittenTask(
        "Odd",
        contents.odd,
        ("{words}: which does not belong?", "find the wrong word: {words}", "all but one belong: {words}"),
    ),
    WrittenTask(
        "Rooms",
        contents.rooms,
        ("{passage} find {name}.", "{passage} which place has {name}?", "find {name}. {passage}"),
    ),
    WrittenTask(
        "Shades",
        contents.shades,
        ("{passage} describe the {thing}.", "{passage} which shade had the {thing}?", "describe the {thing}. {passage}"),
    ),
    WrittenTask(
        "Diary",
        contents.diary,
        ("{passage} which name on {day}?", "diary: {passage} read {day}.", "read {day}. {passage}"),
    ),
    WrittenTask(
        "Sums",
        contents.sums,
        ("{passage} together?", "{passage} the sum is", "count all: {passage}"),
    ),
    WrittenTask(
        "Notes",
        contents.notes,
        ("{passage} read {name}.", "{passage} what wrote {name}?", "{passage} the note from {name}"),
    ),
)
