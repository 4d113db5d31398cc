"""Values that a process must have of its own, such as locks and open files, which do not survive a fork."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ProcessLocal(Generic[Value]):
    """A value that each process makes for itself.

    A fork may happen while another thread holds a lock: in the child it would never be released. A pickled copy, as a
    DataLoader's spawned workers get it, makes its own value, too.
    """

    def __init__(self, make: Callable[[], Value]):
        self._make, self._owner_and_value = make, (os.getpid(), make())

    def __call__(self) -> Value:
        owner, value = self._owner_and_value
        if owner != os.getpid():
            value = self._make()
            self._owner_and_value = os.getpid(), value
        return value

    def __getstate__(self) -> dict:
        return {"_make": self._make, "_owner_and_value": (0, None)}
