"""Progress of long work: the listener that it reports to."""

from typing import Protocol


class Progress(Protocol):
    """A listener of long work; the command line draws a bar."""

    def plan(self, more: int) -> None:
        """Expect `more` units of work (examples, steps, bytes)."""

    def report(self, what: str, done: int) -> None:
        """Note that `done` more units of `what` are finished."""


class NoProgress:
    """A listener that says nothing."""

    def plan(self, more: int) -> None:
        pass

    def report(self, what: str, done: int) -> None:
        pass


SILENT = NoProgress()


class Prefixed:
    """A listener that puts words before what is reported."""

    def __init__(self, progress: Progress, prefix: str):
        self._progress, self._prefix = progress, prefix

    def plan(self, more: int) -> None:
        self._progress.plan(more)

    def report(self, what: str, done: int) -> None:
        self._progress.report(self._prefix + what, done)
