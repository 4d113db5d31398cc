"""Read masks, dicts of arrays of bytes or bools, as np.save, pickle and torch.save wrote them.

A pickle never reaches numpy itself: only bytes and shapes are read, and arrays are made of them afterwards.
"""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.errors import UserError
from src.pickles.archives import is_archive
from src.pickles.torch_format import MAGIC, read_torch_file
from src.pickles.unpickler import DictStandIn, FunctionStandIn, InertUnpickler
from src.runtime.untrusted import open_regular

NUMPY_MAGIC = b"\x93NUMPY"
MASK_DTYPES = {"u1": np.uint8, "b1": np.bool_}
OBJECT_DTYPES = ("O", "O8")  # of the array that np.save wraps around a dict


class _DType:
    """Stands for a dtype. The byte order in its state does not matter for bytes."""

    __slots__ = ("name",)

    def __init__(self, name: object):
        if not isinstance(name, str) or (name not in MASK_DTYPES and name not in OBJECT_DTYPES):
            raise TypeError("arrays of other numbers, and masks are bytes or bools")
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for an array, whose state comes after it is made."""

    __slots__ = ("contents", "dtype", "shape")

    def __init__(self, contents: object = None, dtype: object = None, shape: object = None):
        self.contents, self.dtype, self.shape = contents, dtype, shape

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, _, self.contents = state

    def has_objects(self) -> bool:
        """Whether the entries are objects and not numbers."""
        if not isinstance(self.dtype, _DType) or not isinstance(self.shape, tuple):
            raise TypeError("an array without a dtype or shape")
        return self.dtype.name in OBJECT_DTYPES

    def item(self) -> object:
        """Return the one object in an array without dimensions."""
        if not self.has_objects() or self.shape or not isinstance(self.contents, list) or len(self.contents) != 1:
            raise TypeError("an array of several objects")
        return self.contents[0]

    def to_numpy(self) -> np.ndarray:
        """Return a numpy array of the entries. Raise TypeError unless they are bytes or bools in one dimension."""
        if self.has_objects() or len(self.shape) > 1 or not isinstance(self.contents, bytes | bytearray):
            raise TypeError(f"an array of {len(self.shape)} dimensions or of objects, and a mask has one and bytes or bools")
        if len(self.contents) != math.prod(self.shape):
            raise TypeError(f"an array whose shape is not that of its {len(self.contents)} bytes")
        return np.frombuffer(self.contents, MASK_DTYPES[self.dtype.name]).reshape(self.shape)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise TypeError(f"bytes encoded as {encoding}")
    return text.encode(encoding)


def _refuse_ndarray(*_: object) -> None:
    raise TypeError("an array made by its class")


# The names under which numpy 1 and numpy 2 write what rebuilds an array, and no others.
STAND_INS = {
    ("_codecs", "encode"): FunctionStandIn(_encode),
    ("collections", "OrderedDict"): DictStandIn,
    ("numpy", "ndarray"): FunctionStandIn(_refuse_ndarray),  # an argument of _reconstruct, which nothing should call
    ("numpy", "dtype"): FunctionStandIn(lambda name, *_: _DType(name)),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): FunctionStandIn(lambda *_: _Array()) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FunctionStandIn(lambda contents, dtype, shape, _: _Array(contents, dtype, shape))
       for core in ("core", "_core")},
}  # fmt: skip
TENSOR_MODULE = "torch._utils"  # has the functions that rebuild tensors


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the dict of byte arrays in a file that np.save (as an object array), torch.save or pickle wrote.

    Raise UserError if the file cannot be read, or asks to call anything but what rebuilds an array, which it names.
    """
    try:
        with open_regular(path) as file:
            is_numpy = file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC
            file.seek(0)
            content = MAGIC if is_archive(path) else (_load_numpy if is_numpy else _load)(file, path)
        if content == MAGIC:  # a zip archive, or the first pickle of torch's legacy format
            content = read_torch_file(path, lambda file, _: _load(file, path))
        if isinstance(content, _Array) and content.has_objects():
            content = content.item()
        # No dicts in the dict: a few hundred bytes of dicts that share their children can stand for any number of arrays.
        if not isinstance(content, dict) or not all(isinstance(array, _Array) for array in content.values()) or not content:
            raise UserError(f"{path} holds no mask by task; published masks are a dict of arrays")
        return {str(task): array.to_numpy() for task, array in content.items()}
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); copy or download it again") from error


def _load(file: BinaryIO, path: Path) -> object:
    def stand_in(module: str, name: str) -> object:
        if module == TENSOR_MODULE:
            raise UserError(
                f"{path} is no file of masks as they are published: it holds tensors, and masks of tensors are not read; save "
                "them as arrays: np.save(path, {task: mask.numpy() for task, mask in masks.items()})"
            )
        return STAND_INS.get((module, name))

    advice = "Do not use a file that should hold masks and asks for this"
    return InertUnpickler(file, stand_in, (f"{path} is no file of masks", advice)).load()


def _load_numpy(file: BinaryIO, path: Path) -> object:
    """Return the content of a file of np.save; None of an array of numbers, which is no mask by task."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    _, _, dtype = read_header(file)
    return _load(file, path) if dtype.hasobject else None
