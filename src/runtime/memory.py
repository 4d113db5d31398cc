"""Memory that a process keeps for its next step: pages the system hands out anew are slow to write for the first time."""

import ctypes
import sys

GLIBC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26), "M_MMAP_THRESHOLD": (-3, 2**30)}


def keep_freed_memory() -> None:
    """Ask glibc to give freed memory back to this process rather than to the system; elsewhere nothing happens."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        for option, value in GLIBC.values():
            library.mallopt(option, value)
