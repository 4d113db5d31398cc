"""Read a pickle without running anything in it: every name in it is answered here, or refused.

A pickle is a program that names functions and calls them. Here every name that a format may use stands for something
inert, nothing is imported, and a name that stands for nothing ends the reading.

The machine that runs the program is bounded as well. Operations are counted, which bounds time and the objects that are
made. Only names and numbers are hashed, since the hash, comparison or text of tuples that hold one another twice takes two
to the power of their number. Indices and lengths fill no memory, and what calls copy is no longer than the file. So a
pickle takes seconds, some hundred bytes an operation, and a few times the bytes of its file.
"""

import contextlib
import gc
import pickle
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from src.errors import UserError

MAX_OPERATIONS = 4_000_000  # a tensor with its name takes about 35
MAX_KEY_PARTS = 16  # of names in a tuple
LARGEST_KEY = 2**63  # integers beyond it can be chosen to have one hash
COPY_ALLOWANCE = 2**24  # bytes that calls may copy beside those of the file
ENTRY_BYTES = 100  # of an entry in a dict or set
# What no format that is read here uses: extension codes, classes of Python 1, ids in text, integers of any length, buffers.
REFUSED = (
    pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.INST + pickle.OBJ + pickle.PERSID + pickle.LONG4
    + pickle.NEXT_BUFFER + pickle.READONLY_BUFFER
)  # fmt: skip


def safe_key(key: object) -> object:
    """Return a key of a dict or an item of a set. Raise UnpicklingError if hashing, comparing or printing it may take long."""
    if isinstance(key, str):
        key.encode()  # raises for halves of surrogate pairs, which no file can be named after
    elif isinstance(key, int):
        if abs(key) >= LARGEST_KEY:
            raise pickle.UnpicklingError("it has a dict or set with a number of more than 64 bits for a name")
    elif isinstance(key, tuple | frozenset) and not _is_flat(key):
        raise pickle.UnpicklingError("it has a dict or set with nested or long tuples or sets for names")
    return key


def _is_flat(key: tuple | frozenset) -> bool:
    return type(key) is tuple and len(key) <= MAX_KEY_PARTS and all(isinstance(part, str) for part in key)


class InertUnpickler(pickle._Unpickler):
    """An unpickler that looks names up in a table of its own instead of importing them.

    stand_in: returns what a name of a module stands for; None refuses it.
    refusal: the words before and after the refused name in the UserError.
    """

    # Python's own implementation in Python; the one in C hashes and reserves what it is told to, and cannot be asked first.

    def __init__(self, file: BinaryIO, stand_in: Callable[[str, str], object], refusal: tuple[str, str]):
        super().__init__(file, encoding="utf-8")
        self._stand_in, self._refusal = stand_in, refusal
        self.read, self.readline = file.read, file.readline
        self.stack, self.metastack = [], []
        self.append = self.stack.append
        start = file.tell()
        self._copyable = file.seek(0, 2) + COPY_ALLOWANCE
        file.seek(start)

    def load(self) -> object:
        """Return the object that the pickle makes; read no further. Raise whatever a damaged pickle happens to raise."""
        with _no_collection():
            return self._run()

    def _run(self) -> object:
        read, dispatch = self.read, self.dispatch
        for _ in range(MAX_OPERATIONS):
            opcode = read(1)
            if opcode == pickle.STOP:
                return self.stack.pop()
            if not opcode:
                raise EOFError("its pickle has no end")
            if opcode[0] not in dispatch:
                raise pickle.UnpicklingError(f"its pickle has an operation, {opcode!r}, that is none of torch or numpy")
            dispatch[opcode[0]](self)
        raise pickle.UnpicklingError(f"its pickle takes more than {MAX_OPERATIONS:,} operations")

    def find_class(self, module: str, name: str) -> object:
        """Return what a name stands for, which Python 2 may have written. Raise UserError if it stands for nothing."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        stand_in = self._stand_in(module, name)
        if stand_in is None:
            before, after = self._refusal
            raise UserError(f"{before}: it asks to call {module}.{name}; nothing in it was run. {after}")
        return stand_in

    def load_frame(self) -> None:
        """Skip the length of a frame: what is in it follows anyway."""
        self.read(8)

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # which has no more bytes than the file

    def load_put(self) -> None:
        self.memo[safe_key(int(self.readline()))] = self.stack[-1]

    def load_setitem(self) -> None:
        safe_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        self._check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self._check_keys(self.stack)
        super().load_frozenset()

    def load_reduce(self) -> None:
        arguments = self.stack[-1]
        self._count_copies([arguments])
        self._count_copies(arguments)
        super().load_reduce()

    def load_newobj(self) -> None:
        self._count_copies(self.stack[-1:])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._count_copies(self.stack[-2:])
        super().load_newobj_ex()

    def _count_copies(self, values: Iterable[object]) -> None:
        """Count what a call may copy of each of `values`. Raise UnpicklingError if it is more than a file can need."""
        for value in values:
            if isinstance(value, str | bytes | bytearray | tuple):
                self._copyable -= len(value)
            elif isinstance(value, list | dict | set | frozenset):
                self._copyable -= len(value) * ENTRY_BYTES
        if self._copyable < 0:
            raise pickle.UnpicklingError("its pickle copies one thing again and again")

    @staticmethod
    def _check_keys(keys: list) -> None:
        for key in keys:
            safe_key(key)


InertUnpickler.dispatch = {
    opcode: getattr(InertUnpickler, load.__name__) for opcode, load in pickle._Unpickler.dispatch.items() if opcode not in REFUSED
}


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """In the block, no garbage is looked for: else millions of new objects are gone through again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
    """Stands for OrderedDict, defaultdict and Counter: a dict on which no attribute can be set.

    attributes: the names of those that were set, but for the versions of modules, which state dicts carry.
    """

    __slots__ = ("attributes",)

    def __init__(self, pairs: object = ()):
        entries = pairs.items() if isinstance(pairs, dict) else pairs if isinstance(pairs, list) else ()
        super().__init__((safe_key(key), value) for key, value in entries)
        self.attributes: tuple[str, ...] = ()

    def __setstate__(self, state: object) -> None:
        self.attributes = tuple(str(name) for name in state if name != "_metadata") if isinstance(state, dict) else ()
