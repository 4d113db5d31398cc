"""Read masks out of pickles without running anything in them.

A pickle is a program that names functions and calls them. Here every name it may use stands for an inert object of
ours, which collects bytes and shapes; numpy itself is never handed to it, and its arrays are made afterwards.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.errors import UserError

NUMPY, ZIP = b"\x93NUMPY", b"PK"
BYTES = {"u1": np.uint8, "b1": np.bool_}  # what masks are made of
OBJECTS = ("O", "O8")  # the array of one dict that np.save wraps


class _Kind:
    """Stands for a dtype; what pickles say of its byte order does not matter for bytes."""

    __slots__ = ("name",)

    def __init__(self, name: object):
        if name not in BYTES and name not in OBJECTS:
            raise TypeError(f"arrays of {name!r}, and masks are bytes or bools")
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for an array, until its contents have come."""

    __slots__ = ("contents", "kind", "shape")

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.kind, _, self.contents = state

    def made(self) -> object:
        """The array, or the object that an array of one object holds."""
        if not isinstance(self.kind, _Kind) or not isinstance(self.shape, tuple):
            raise TypeError("an array without a dtype or shape")
        if self.kind.name in OBJECTS:
            if self.shape or not isinstance(self.contents, list) or len(self.contents) != 1:
                raise TypeError("an array of several objects")
            return _made(self.contents[0])
        if len(self.shape) > 1 or not isinstance(self.contents, bytes | bytearray):
            raise TypeError(f"an array of shape {self.shape}")
        if len(self.contents) != math.prod(self.shape):
            raise TypeError(f"an array of shape {self.shape} with {len(self.contents)} bytes")
        return np.frombuffer(self.contents, BYTES[self.kind.name]).reshape(self.shape)


class _Named:
    """Base of what stands for a function: nothing can be set on it."""

    __slots__ = ()


class _Encode(_Named):
    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise TypeError(f"bytes encoded as {encoding}")
        return text.encode(encoding)


class _Ndarray(_Named):
    __slots__ = ()


class _Dtype(_Named):
    __slots__ = ()

    def __call__(self, name: object, *_: object) -> _Kind:
        return _Kind(name)


class _Reconstruct(_Named):
    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array()


class _FromBuffer(_Named):
    __slots__ = ()

    def __call__(self, contents: object, kind: object, shape: object, _: object) -> _Array:
        array = _Array()
        array.__setstate__((None, shape, kind, None, contents))
        return array


# The names under which numpy 1 and numpy 2 write what rebuilds an array, and no others.
STAND_INS = {
    ("_codecs", "encode"): _Encode(),
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Ndarray(),
    ("numpy", "dtype"): _Dtype(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


def read_arrays(path: Path) -> object:
    """A dict of byte arrays that np.save (as an object array), torch.save or pickle wrote.

    Raises UserError naming what the file asks to call, if that is anything but what rebuilds an array.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(NUMPY))
            file.seek(0)
            if start == NUMPY:
                return _from_numpy(file, path)
            if start.startswith(ZIP):
                with zipfile.ZipFile(file) as archive:
                    (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
                    return _made(_Reader(io.BytesIO(archive.read(name)), path).load())
            return _made(_Reader(file, path).load())
    except UserError:
        raise
    except Exception as reason:  # a spoiled pickle can raise anything
        raise UserError(f"{path} cannot be read ({type(reason).__name__}: {reason}); copy or download it again") from reason


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise UserError(
                f"{self._path} is no file of masks: it asks to call {module}.{name}; nothing in it was run. "
                "Do not use a file that should hold masks and asks for this"
            ) from None


def _from_numpy(file: io.BufferedReader, path: Path) -> object:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    _, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.load(file, allow_pickle=False)
    return _made(_Reader(file, path).load())


def _made(found: object) -> object:
    """What was read, with its arrays made."""
    if isinstance(found, _Array):
        return found.made()
    return {key: _made(value) for key, value in found.items()} if isinstance(found, Mapping) else found
