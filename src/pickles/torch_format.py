"""The two formats of torch.save: where a file's pickle is, and its storages, which are mapped and not copied.

Since torch 1.6 a file is a zip archive with an entry for the pickle and one for each storage. Before, it was a sequence
of pickles with the storages behind them: the legacy format.
"""

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
from src.runtime.untrusted import open_regular

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the legacy format
SIZES = {"short": 2, "int": 4, "long": 4}
MAX_DIMENSIONS = 64  # of a tensor; a few bytes can repeat a long shape for any number of tensors
LOCAL_HEADER = 30  # bytes before an entry's name in a zip, of which the last four are the lengths of name and extra field
DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64, "QInt32Storage": torch.int32,
    "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8,
}  # fmt: skip


class StorageKind:
    """Stands for a storage class."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __setstate__(self, _: object) -> None:
        raise TypeError("a storage class with a state")


class PickledStorage:
    """A storage that a pickle names; its bytes are assigned when the pickle has been read.

    key: its name in the file.
    count: number of elements.
    """

    __slots__ = ("_bytes", "_start", "count", "dtype", "key")

    def __init__(self, key: str, kind: object, count: object):
        if not isinstance(key, str) or not isinstance(kind, StorageKind) or type(count) is not int or count < 0:
            raise TypeError("a malformed storage")
        self.key, self.dtype, self.count = key, kind.dtype, count
        self._bytes: torch.UntypedStorage | None = None
        self._start = 0

    def __setstate__(self, _: object) -> None:
        raise TypeError("a storage with a state")

    def assign(self, file_bytes: torch.UntypedStorage, start: int, end: int) -> None:
        """Let the storage be the bytes from `start` on of the mapped file. Raise EOFError if it reaches beyond `end`."""
        if start + self.count * self.dtype.itemsize > end or end > file_bytes.nbytes():
            raise EOFError(f"storage {self.key} is cut short")
        self._bytes, self._start = file_bytes, start

    def view(self, dtype: torch.dtype, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """Return a tensor of the storage's elements: a view into the mapped file wherever alignment allows it."""
        if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
            raise TypeError("a malformed shape or stride")
        if any(type(number) is not int or number < 0 for number in (offset, *shape, *stride)):
            raise TypeError("a malformed offset, shape or stride")
        size = self.count * self.dtype.itemsize
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride)) if 0 not in shape else -1
        if (last + 1) * dtype.itemsize > size:
            raise TypeError(f"a tensor that reaches beyond its storage {self.key}")
        if self._start % dtype.itemsize:  # only in the legacy format, which does not align storages
            self._bytes, self._start = self._bytes[self._start : self._start + size].clone(), 0
        return torch.empty(0, dtype=dtype).set_(self._bytes[self._start : self._start + size], offset, shape, stride)


Load = Callable[[BinaryIO, dict[str, PickledStorage]], object]  # reads one pickle; adds the storages it names, by key


def read_torch_file(path: Path, load: Load) -> object:
    """Return the content of a file of torch.save: `load` reads its pickle, then the storages it names are mapped.

    Raise BadZipFile, EOFError, TypeError or UnpicklingError for a file that is damaged or of another format.
    """
    storages: dict[str, PickledStorage] = {}
    is_zip = is_archive(path)
    if is_zip:
        check_archive(path)
    with open_regular(path) as file:
        return (_read_zip if is_zip else _read_legacy)(file, path, load, storages)


def _read_zip(file: BinaryIO, path: Path, load: Load, storages: dict[str, PickledStorage]) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (name,) = (name for name in entries if name.split("/", 1)[-1] == "data.pkl")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        content = load(BytesIO(archive.read(name)), storages)
        file_bytes = _map_file(path)
        for key, storage in storages.items():
            entry = entries[f"{folder}data/{key}"]
            file.seek(entry.header_offset)
            lengths = struct.unpack("<26x2H", file.read(LOCAL_HEADER))
            start = entry.header_offset + LOCAL_HEADER + sum(lengths)
            storage.assign(file_bytes, start, start + entry.file_size)
    return content


def _read_legacy(file: BinaryIO, path: Path, load: Load, storages: dict[str, PickledStorage]) -> object:
    if load(file, storages) != MAGIC or load(file, storages) != VERSION:
        raise pickle.UnpicklingError("it is a pickle, and none that torch.save wrote")
    if load(file, storages) != {"protocol_version": VERSION, "little_endian": True, "type_sizes": SIZES}:
        raise pickle.UnpicklingError("it was written on a machine of another byte order")
    content = load(file, storages)
    keys, file_bytes = load(file, storages), _map_file(path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("it has no list of its storages")
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storages[key].count:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements and should have {storages[key].count}")
        storages[key].assign(file_bytes, file.tell(), file_bytes.nbytes())
        file.seek(count * storages[key].dtype.itemsize, 1)
    return content


def _map_file(path: Path) -> torch.UntypedStorage:
    """Return the bytes of a file, read from disk as they are accessed; what is written to them stays in memory."""
    return torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
