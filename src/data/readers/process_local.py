"""What a process must have of its own: locks and open files do not survive a fork."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ProcessLocal(Generic[Value]):
    """A value that each process makes for itself.

    A fork may happen while another thread holds a lock: in the child nobody would ever let go of it. A pickled copy,
    as a DataLoader's spawned workers get it, makes its value anew too.
    """

    def __init__(self, make: Callable[[], Value]):
        self._make, self._held = make, (os.getpid(), make())

    def __call__(self) -> Value:
        process, value = self._held
        if process != os.getpid():
            value = self._make()
            self._held = os.getpid(), value
        return value

    def __getstate__(self) -> dict:
        return {"_make": self._make, "_held": (0, None)}
