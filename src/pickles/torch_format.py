"""The files torch.save writes, of both forms: where the pickle in them is, and their storages, mapped and not copied."""

import pickle
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from src.pickles.archives import check_archive, is_archive

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the form before torch 1.6
SIZES = {"short": 2, "int": 4, "long": 4}
LOCAL_HEADER = 30  # bytes before the name in a zip's entry, whose last two numbers are the lengths of name and extras
DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip


class StorageKind:
    """Stands for a storage class."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __setstate__(self, _: object) -> None:
        raise TypeError("a storage class with a state")


class PickledStorage:
    """A storage that a pickle names; where its bytes are is known when the pickle has been read."""

    __slots__ = ("count", "dtype", "key", "start", "whole")

    def __init__(self, key: str, kind: object, count: object):
        if not isinstance(key, str) or not isinstance(kind, StorageKind) or type(count) is not int or count < 0:
            raise TypeError("a storage that is none")
        self.key, self.dtype, self.count = key, kind.dtype, count
        self.whole: torch.UntypedStorage | None = None
        self.start = 0

    def __setstate__(self, _: object) -> None:
        raise TypeError("a storage with a state")

    def place(self, whole: torch.UntypedStorage, start: int, end: int) -> None:
        if start + self.count * self.dtype.itemsize > end or end > whole.nbytes():
            raise EOFError(f"storage {self.key} is cut short")
        self.whole, self.start = whole, start

    def view(self, dtype: torch.dtype, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """A tensor of its elements, into the mapped file wherever memory allows it."""
        if any(type(number) is not int or number < 0 for number in (offset, *shape, *stride)) or len(shape) != len(stride):
            raise TypeError("a tensor of no shape")
        size = self.count * self.dtype.itemsize
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride)) if 0 not in shape else -1
        if (last + 1) * dtype.itemsize > size:
            raise TypeError(f"a tensor that reaches beyond its storage {self.key}")
        part = self.whole[self.start : self.start + size]
        if self.start % dtype.itemsize:
            part = part.clone()  # only in the old form, whose storages lie where they happen to
        return torch.empty(0, dtype=dtype).set_(part, offset, shape, stride)


Load = Callable[[BinaryIO, dict[str, PickledStorage]], object]  # reads one pickle, and puts the storages it names into the dict


def read_torch_file(path: Path, load: Load) -> object:
    """What `load` makes of the pickle in a file, once the storages it names are mapped."""
    stored: dict[str, PickledStorage] = {}
    zipped = is_archive(path)
    if zipped:
        check_archive(path)
    with path.open("rb") as file:
        return (_read_zip if zipped else _read_old)(file, path, load, stored)


def _read_zip(file: BinaryIO, path: Path, load: Load, stored: dict[str, PickledStorage]) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (name,) = (name for name in entries if name.split("/", 1)[-1] == "data.pkl")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        loaded = load(BytesIO(archive.read(name)), stored)
        whole = _mapped(path)
        for key, storage in stored.items():
            entry = entries[f"{folder}data/{key}"]
            file.seek(entry.header_offset)
            lengths = struct.unpack("<26x2H", file.read(LOCAL_HEADER))
            start = entry.header_offset + LOCAL_HEADER + sum(lengths)
            storage.place(whole, start, start + entry.file_size)
    return loaded


def _read_old(file: BinaryIO, path: Path, load: Load, stored: dict[str, PickledStorage]) -> object:
    if load(file, stored) != MAGIC or load(file, stored) != VERSION:
        raise pickle.UnpicklingError("it is a pickle, and none that torch.save wrote")
    if load(file, stored) != {"protocol_version": VERSION, "little_endian": True, "type_sizes": SIZES}:
        raise pickle.UnpicklingError("it was written on a machine of another byte order")
    loaded = load(file, stored)
    keys, whole = load(file, stored), _mapped(path)
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != stored[key].count:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements and should have {stored[key].count}")
        stored[key].place(whole, file.tell(), whole.nbytes())
        file.seek(count * stored[key].dtype.itemsize, 1)
    return loaded


def _mapped(path: Path) -> torch.UntypedStorage:
    """The whole file, read from disk where and when it is looked at; what is written to it stays in memory."""
    return torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
