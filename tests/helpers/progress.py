"""Progress listeners for tests."""

import signal
from collections.abc import Callable


class RecordedProgress:
    """A progress listener that records its calls.

    planned: units of work, as they were announced.
    reports: (what, done) pairs.
    """

    def __init__(self, on_report: Callable[[str, int], None] | None = None):
        self.planned: list[int] = []
        self.reports: list[tuple[str, int]] = []
        self._on_report = on_report

    def plan(self, more: int) -> None:
        self.planned.append(more)

    def report(self, what: str, done: int) -> None:
        self.reports.append((what, done))
        if self._on_report:
            self._on_report(what, done)


class SignalAt(RecordedProgress):
    """Sends this process a signal when `at` units of work are done."""

    def __init__(self, at: int, number: int = signal.SIGTERM):
        super().__init__()
        self._left, self._number = at, number

    def report(self, what: str, done: int) -> None:
        self._left -= done
        if done and self._left == 0:
            signal.raise_signal(self._number)
