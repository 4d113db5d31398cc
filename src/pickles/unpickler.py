"""Read a pickle without running anything in it: every name in it is answered here, or refused.

A pickle is a program that names functions and calls them. Here every name that a format may use stands for something
inert, nothing is imported, and a name that stands for nothing ends the reading.
"""

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import BinaryIO

from src.errors import UserError


class InertUnpickler(pickle.Unpickler):
    """An unpickler that looks names up in a table of its own instead of importing them.

    stand_in: returns what a name of a module stands for; None refuses it.
    refusal: the words before and after the refused name in the UserError.
    """

    def __init__(self, file: BinaryIO, stand_in: Callable[[str, str], object], refusal: tuple[str, str]):
        super().__init__(file, encoding="utf-8")
        self._stand_in, self._refusal = stand_in, refusal

    def find_class(self, module: str, name: str) -> object:
        """Return what a name stands for, which Python 2 may have written. Raise UserError if it stands for nothing."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        stand_in = self._stand_in(module, name)
        if stand_in is None:
            before, after = self._refusal
            raise UserError(f"{before}: it asks to call {module}.{name}; nothing in it was run. {after}")
        return stand_in


class FunctionStandIn:
    """Stands for a function: a call of it runs ours, and nothing can be set on it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]):
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, _: object) -> None:
        raise TypeError("a function with a state")


class DictStandIn(dict):
    """Stands for OrderedDict and defaultdict: a dict on which no attribute can be set."""

    __slots__ = ()

    def __init__(self, pairs: object = ()):
        super().__init__(pairs if isinstance(pairs, list | dict) else ())

    def __setstate__(self, _: object) -> None:
        pass  # the versions of modules, which state dicts carry as an attribute
