"""Read masks, dicts of arrays of bytes or bools, as np.save, pickle and torch.save wrote them.

numpy itself is never handed to a pickle: what is read are bytes and shapes, and arrays are made of them afterwards.
"""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.errors import UserError
from src.pickles.archives import is_archive
from src.pickles.torch_format import MAGIC, read_torch_file
from src.pickles.unpickler import DictStandIn, FunctionStandIn, InertUnpickler

NUMPY = b"\x93NUMPY"
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

    def __init__(self, contents: object = None, kind: object = None, shape: object = None):
        self.contents, self.kind, self.shape = contents, kind, shape

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.kind, _, self.contents = state

    def holds_objects(self) -> bool:
        if not isinstance(self.kind, _Kind) or not isinstance(self.shape, tuple):
            raise TypeError("an array without a dtype or shape")
        return self.kind.name in OBJECTS

    def only(self) -> object:
        """The object in an array of one."""
        if not self.holds_objects() or self.shape or not isinstance(self.contents, list) or len(self.contents) != 1:
            raise TypeError("an array of several objects")
        return self.contents[0]

    def made(self) -> np.ndarray:
        if self.holds_objects() or len(self.shape) > 1 or not isinstance(self.contents, bytes | bytearray):
            raise TypeError(f"an array of shape {self.shape}")
        if len(self.contents) != math.prod(self.shape):
            raise TypeError(f"an array of shape {self.shape} with {len(self.contents)} bytes")
        return np.frombuffer(self.contents, BYTES[self.kind.name]).reshape(self.shape)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise TypeError(f"bytes encoded as {encoding}")
    return text.encode(encoding)


def _ndarray(*_: object) -> None:
    raise TypeError("an array made by its class")


# The names under which numpy 1 and numpy 2 write what rebuilds an array, and no others.
STAND_INS = {
    ("_codecs", "encode"): FunctionStandIn(_encode),
    ("collections", "OrderedDict"): DictStandIn,
    ("numpy", "ndarray"): FunctionStandIn(_ndarray),  # named as what to rebuild, and never called
    ("numpy", "dtype"): FunctionStandIn(lambda name, *_: _Kind(name)),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): FunctionStandIn(lambda *_: _Array()) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FunctionStandIn(lambda contents, kind, shape, _: _Array(contents, kind, shape))
       for core in ("core", "_core")},
}  # fmt: skip
TENSORS = "torch._utils"  # the module of what rebuilds them


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """A dict of byte arrays that np.save (as an object array), torch.save or pickle wrote.

    Raises UserError naming what the file asks to call, if that is anything but what rebuilds an array.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(NUMPY))
            file.seek(0)
            loaded = MAGIC if is_archive(path) else (_from_numpy if start == NUMPY else _load)(file, path)
        if loaded == MAGIC:  # the first of several pickles, if it is no zip
            loaded = read_torch_file(path, lambda file, _: _load(file, path))
        if isinstance(loaded, _Array) and loaded.holds_objects():
            loaded = loaded.only()
        # One level and no deeper: a few hundred bytes of dicts that share their children can stand for any number of arrays.
        if not isinstance(loaded, dict) or not all(isinstance(array, _Array) for array in loaded.values()) or not loaded:
            raise UserError(f"{path} holds no mask by task; published masks are a dict of arrays")
        return {str(task): array.made() for task, array in loaded.items()}
    except UserError:
        raise
    except Exception as reason:  # a spoiled pickle can raise anything
        raise UserError(f"{path} cannot be read ({type(reason).__name__}: {reason}); copy or download it again") from reason


def _load(file: BinaryIO, path: Path) -> object:
    def stand_in(module: str, name: str) -> object:
        if module == TENSORS:
            raise UserError(
                f"{path} is no file of masks as they are published: it holds tensors, and masks of tensors are not read; save "
                "them as arrays: np.save(path, {task: mask.numpy() for task, mask in masks.items()})"
            )
        return STAND_INS.get((module, name))

    advice = "Do not use a file that should hold masks and asks for this"
    return InertUnpickler(file, stand_in, (f"{path} is no file of masks", advice)).load()


def _from_numpy(file: BinaryIO, path: Path) -> object:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    _, _, dtype = read_header(file)
    return _load(file, path) if dtype.hasobject else None  # one array is no mask by task
