"""Signals that ask a process to end, answered between two steps, when its state is whole."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from src.runtime.environment import is_main_process

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
INTERRUPTED = "stopped; what was finished is kept, and a rerun goes on from there"


def end_by_signal(sentence: object, number: int) -> None:
    """End this process at once, with the exit status of a signal and a sentence; further signals change neither."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if is_main_process():
        print(sentence, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(128 + number)


def catch_interrupts() -> None:
    """Let Ctrl-C end this process in one line where nothing else catches it, and at once while a module is imported.

    Some modules swallow any exception while they are imported, and the program would go on.
    """
    hook = sys.excepthook

    def end(number: int, frame: FrameType | None) -> None:
        while frame:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                end_by_signal(INTERRUPTED, number)
            frame = frame.f_back
        raise KeyboardInterrupt

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            end_by_signal(INTERRUPTED, signal.SIGINT)
        hook(kind, error, trace)

    sys.excepthook = report
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, end)


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

    number: of the first signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._interrupted = False
        self._handlers: dict = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers, and get no signals
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.number = self.number or number
