"""Signals that ask a process to end, answered between two steps, when its state is whole."""

import signal
import threading
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class StopRequested(Exception):
    """Work that ended on a signal; a rerun continues it.

    number: the signal's.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopSignal:
    """A context that takes note of a signal to end instead of ending.

    Clusters send SIGTERM, or SIGUSR1 some time ahead of it; a second Ctrl-C ends at once.

    number: of the signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._handlers: dict = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers, and get no signals
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == number:
            raise KeyboardInterrupt
        self.number = number
