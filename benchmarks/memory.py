"""Peak anonymous memory of this process: mapped file pages are the kernel's to drop, and do not count."""

import threading
import time


def anonymous() -> int:
    """RssAnon in bytes, as Linux tells it."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """Samples RssAnon every few milliseconds; `above` is the peak over what there was at the start, in bytes."""

    def __enter__(self) -> "Peak":
        self._start = self._most = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._most = max(self._most, anonymous())
            time.sleep(0.003)

    @property
    def above(self) -> int:
        return self._most - self._start
