"""Rank and size of the process group from the launcher's environment variables; imports no torch."""

import os


def is_distributed() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def is_main_process() -> bool:
    """Whether this process has rank 0."""
    return not is_distributed() or os.environ["RANK"] == "0"


def local_world_size() -> int:
    """Return the number of processes of the group on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if is_distributed() else 1


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
