"""Peak memory in bytes: on a CPU, of anonymous memory; mapped file pages do not count, as the kernel can drop them."""

import contextlib
import ctypes
import threading
import time

import torch


def anonymous(process: int | str = "self") -> int:
    """Return a process's RssAnon in bytes, as Linux reports it; 0 of one that has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/status") as status:
        return sum(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    return 0


class Peak:
    """Samples RssAnon every few milliseconds; `above` is the peak over what there was at the start, in bytes."""

    def __enter__(self) -> "Peak":
        with contextlib.suppress(OSError, AttributeError):  # what was freed and is kept would be used again unseen
            ctypes.CDLL("libc.so.6").malloc_trim(0)
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
        """Peak minus RssAnon at the start, in bytes."""
        return self._most - self._start


class DevicePeak:
    """The peak of memory allocated on a GPU; `above` is the peak over what there was at the start, in bytes."""

    def __init__(self, device: torch.device):
        self._device, self.above = device, 0

    def __enter__(self) -> "DevicePeak":
        torch.cuda.reset_peak_memory_stats(self._device)
        self._start = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.above = torch.cuda.max_memory_allocated(self._device) - self._start


def peak_of(device: torch.device) -> Peak | DevicePeak:
    """Return a context that measures the peak memory of what runs in it, on a device."""
    return DevicePeak(device) if device.type == "cuda" else Peak()
