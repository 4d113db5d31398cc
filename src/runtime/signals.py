"""Stop at a good moment: signals that ask a process to end are answered between two steps, when its state is whole."""

import signal
import threading
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Stopped(Exception):
    """Work was stopped on request, and a rerun goes on from there. number: of the signal."""

    def __init__(self, said: str, number: int):
        super().__init__(said)
        self.number = number


class Stopping:
    """While this is entered, a signal that asks to end is noted. Clusters send SIGTERM, or SIGUSR1 some time ahead of it;
    a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that came, 0 before
        self._before: dict = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers, and get no signals
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == number:
            raise KeyboardInterrupt
        self.number = number
