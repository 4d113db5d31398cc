"""Allocator settings: keep freed memory, because fresh pages of the system are slow to write for the first time."""

import ctypes
import sys

GLIBC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26), "M_MMAP_THRESHOLD": (-3, 2**30)}


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for this process's next allocations; do nothing on other systems."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        for option, value in GLIBC_OPTIONS.values():
            library.mallopt(option, value)
