"""Random access to a column of parquet files, without a decompressed copy on disk."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from src.data.readers.parquet_files import checked_metadata, open_parquet
from src.data.readers.process_local import ProcessLocal

CACHE_BYTES = 2**30  # of encoded images that a process keeps in memory


class RowGroupCache:
    """A cache of row groups of all columns, of at most `CACHE_BYTES`: the least recently used are dropped.

    Several threads may ask at once: each group is read by one.
    """

    def __init__(self):
        self._lock, self._read_locks = threading.Lock(), {}
        self._groups, self._size = OrderedDict(), 0

    def get(self, key, read):
        """Return the row group of a key; `read()`, if it is not in memory."""
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
            read_lock = self._read_locks.setdefault(key, threading.Lock())
        with read_lock:
            with self._lock:
                if key in self._groups:
                    return self._groups[key]
            group = read()
            with self._lock:
                if key not in self._groups:  # a thread that waited for an older lock of the same key may have been faster
                    self._groups[key], self._size = group, self._size + group.nbytes
                self._read_locks.pop(key, None)
                while self._size > CACHE_BYTES and len(self._groups) > 1:
                    self._size -= self._groups.popitem(last=False)[1].nbytes
        return group


row_group_cache = ProcessLocal(RowGroupCache)


class Column:
    """The values of a column in all files, as `column[row]`; rows count on from file to file."""

    def __init__(self, files: Sequence[Path], name: str):
        self._name, self._length = name, 0
        self._groups: list[tuple[str, int, int]] = []  # of each row group: file, its time of change, number in it
        self._starts: list[int] = []  # the first row of each
        for path in files:
            status, metadata = path.stat(), checked_metadata(path)
            for number in range(metadata.num_row_groups):
                self._groups.append((str(path), status.st_mtime_ns, number))
                self._starts.append(self._length)
                self._length += metadata.row_group(number).num_rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int):
        index = self._group_index(row)
        group = row_group_cache().get((self._name, *self._groups[index]), lambda: self._read(*self._groups[index]))
        return group[int(row) - self._starts[index]].as_py()

    def describe(self, row: int) -> str:
        """Return where a row is, for a sentence."""
        index = self._group_index(row)
        path, _, number = self._groups[index]
        return f"{path}, number {row - self._starts[index]} of row group {number}"

    def _group_index(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _read(self, path: str, _: int, number: int):
        with open_parquet(Path(path)) as file:
            return file.read_row_group(number, columns=[self._name], use_threads=False).column(0)
