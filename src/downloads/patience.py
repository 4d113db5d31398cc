"""The time that a server has: every wait for it ends within a minute, however a request is dragged out."""

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread

CONNECTING = 5.0  # seconds for each address of a host
SILENCE = 20.0  # seconds without a byte
PATIENCE = 40.0  # seconds in which LEAST bytes come; they end at most SILENCE later
LEAST = 2**16  # bytes
PAUSE = 1.0  # seconds before a request is repeated; doubled each time


class Patience:
    """The time left for a server to send more: PATIENCE seconds, anew whenever LEAST bytes have come.

    Silence is noticed by a connection itself; a byte now and then, in a header or a body, only by a clock beside it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._end = time.monotonic() + PATIENCE

    @property
    def left(self) -> float:
        """The seconds that are left; negative after them."""
        return self._end - time.monotonic()

    def count(self, size: int) -> None:
        """Note that `size` more bytes have come."""
        self._count += size
        if self._count >= LEAST:
            self._count, self._end = 0, time.monotonic() + PATIENCE

    def pause(self, repetition: int, least: float = 0.0) -> bool:
        """Wait before a request is repeated; return False, at once, if that takes longer than is left.

        repetition: 0 before the first.
        least: seconds that the server asks for.
        """
        seconds = max(PAUSE * 2**repetition, least)
        if seconds > self.left:
            return False
        time.sleep(seconds)
        return True

    @contextlib.contextmanager
    def enforced(self, abort: Callable[[], None]) -> Iterator[None]:
        """Call `abort`, which ends the requests of this block, when no time is left. Raise TimeoutError then."""
        done = Event()
        clock = Thread(target=self._watch, args=(done, abort), daemon=True)
        clock.start()
        try:
            yield
        except Exception as error:
            if self.left > 0:
                raise
            raise TimeoutError(f"fewer than {LEAST // 2**10} KiB came within {PATIENCE:.0f} seconds") from error
        finally:
            done.set()
            clock.join()

    def _watch(self, done: Event, abort: Callable[[], None]) -> None:
        while not done.wait(max(0.0, self.left)):
            if self.left <= 0:
                return abort()
