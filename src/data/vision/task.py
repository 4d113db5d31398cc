"""An image classification task: classes, and prompts that name them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from src.data.class_names import ClassName
from src.data.splits import RANDOM_TENTH, SplitRule
from src.data.task import ExampleSource, Task


class ImageSource(ExampleSource, Protocol):
    """Where images with labels come from."""

    @property
    def classes(self) -> Sequence[ClassName]:
        """Class names in label order."""


@dataclass(frozen=True, eq=False)
class ImageTask(Task):
    """An image classification task, of examples (image, label).

    templates: prompts with a `{}` for the class name.
    """

    modality: ClassVar[str] = "images"

    source: ImageSource
    templates: Sequence[str]
    split_rule: SplitRule = field(default=RANDOM_TENTH, kw_only=True)

    @property
    def classes(self) -> Sequence[ClassName]:
        """Class names in label order; a class with synonyms is a tuple of them."""
        return self.source.classes

    @property
    def facts(self) -> list:
        """Name, classes, prompts and kind of source."""
        return [self.name, list(self.classes), list(self.templates), self.source.kind]
