"""Read a pickle without running anything in it: the one place where the names in it are answered, or refused.

A pickle is a program that names functions and calls them. Here every name that a format may use stands for something
inert, nothing is imported, and a name that stands for nothing ends the reading.
"""

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import BinaryIO

from src.errors import UserError


class InertUnpickler(pickle.Unpickler):
    """stand_in: what a module's name stands for, None for a stranger; refusal: the beginning and the end of what is said of
    a stranger, around the name it has."""

    def __init__(self, file: BinaryIO, stand_in: Callable[[str, str], object], refusal: tuple[str, str]):
        super().__init__(file, encoding="utf-8")
        self._stand_in, self._refusal = stand_in, refusal

    def find_class(self, module: str, name: str) -> object:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2, as ours
        found = self._stand_in(module, name)
        if found is None:
            before, after = self._refusal
            raise UserError(f"{before}: it asks to call {module}.{name}; nothing in it was run. {after}")
        return found


class FunctionStandIn:
    """Stands for a function; nothing can be set on it."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Callable[..., object]):
        self._calls = calls

    def __call__(self, *arguments: object) -> object:
        return self._calls(*arguments)

    def __setstate__(self, _: object) -> None:
        raise TypeError("a function with a state")


class DictStandIn(dict):
    """Stands for OrderedDict and defaultdict: a dict on which no attribute can be set."""

    __slots__ = ()

    def __init__(self, pairs: object = ()):
        super().__init__(pairs if isinstance(pairs, list | dict) else ())

    def __setstate__(self, _: object) -> None:
        pass  # the versions of modules, which state dicts carry as an attribute
