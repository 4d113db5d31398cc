"""Tables of tasks: what the registry knows of those of one kind."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from src.data.task import Task
from src.validation import is_whole

Options = Mapping[str, object]  # of one task


class TaskTable(Protocol):
    """Tasks of one kind by name: those of the program, and those that users add by their options.

    names: those of the program.
    keys: the options that its tasks have.
    """

    names: Collection[str]
    keys: Sequence[str]

    def is_own(self, options: Options) -> bool:
        """Whether these are the options of a task of this kind that a user adds."""

    def problems(self, name: str, options: Options) -> list[str]:
        """Return sentences on the options of one task that are malformed."""

    def task(self, name: str, options: Options) -> Task:
        """Return a task. No data is touched."""


@dataclass(frozen=True)
class BundledTasks:
    """Tasks whose examples the program makes itself, so that little of them can be set.

    make: returns them by name.
    verb: what their examples are, in a participle.
    settable: the options that replace the field of a task with the same name, lists, with examples as they are typed.
    refused: options of other tasks that make no sense for these.
    """

    make: Callable[[], Mapping[str, Task]]
    verb: str
    keys: Sequence[str]
    settable: Mapping[str, str] = field(default_factory=dict)
    refused: Sequence[str] = ("source",)

    @property
    def names(self) -> Collection[str]:
        return self.make()

    def is_own(self, options: Options) -> bool:
        return False

    def problems(self, name: str, options: Options) -> list[str]:
        return (
            list_problems(name, options, self.settable)
            + epochs_problems(name, options)
            + [
                f"task {name} is {self.verb} and takes no {key}; give yours another name"
                for key in self.refused
                if options.get(key)
            ]
        )

    def task(self, name: str, options: Options) -> Task:
        return replace(self.make()[name], **{key: tuple(options[key]) for key in self.settable if options.get(key)})


def epochs_problems(name: str, options: Options) -> list[str]:
    """Return a sentence if a task's epochs are no number of them."""
    epochs = options.get("epochs")
    is_number = epochs is None or is_whole(epochs, least=1)
    return [] if is_number else [f"tasks.{name}.epochs is a positive whole number, or null; got {epochs}"]


def list_problems(name: str, options: Options, examples: Mapping[str, str]) -> list[str]:
    """Return sentences on options that are set and are no lists, or empty ones.

    examples: of the lists, as they are typed with `{name}` for the task, by option.
    """
    return [
        f"tasks.{name}.{key} is a list, as in {example.format(name=name)}; got {options[key]}"
        for key, example in examples.items()
        if options.get(key) is not None and not (isinstance(options[key], list | tuple) and options[key])
    ]
