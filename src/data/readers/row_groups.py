"""Random access to a column of parquet files, without a decompressed copy on disk."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from src.data.readers.process_local import ProcessLocal

MOST = 2**30  # bytes of encoded images that a process keeps: whole row groups, the longest unused let go first


class RowGroupCache:
    """The row groups that were read last, of all columns. Several threads may ask at once: each group is read by one."""

    def __init__(self):
        self._lock, self._reading = threading.Lock(), {}
        self._held, self._size = OrderedDict(), 0

    def get(self, key, read):
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            turn = self._reading.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._held:
                    return self._held[key]
            group = read()
            with self._lock:
                self._held[key], self._size = group, self._size + group.nbytes
                self._reading.pop(key, None)
                while self._size > MOST and len(self._held) > 1:
                    self._size -= self._held.popitem(last=False)[1].nbytes
        return group


row_group_cache = ProcessLocal(RowGroupCache)


class Column:
    """The values of a column in all files, as `column[row]`."""

    def __init__(self, files: Sequence[Path], name: str):
        import pyarrow.parquet

        self._name, self._places, self._starts, self._rows = name, [], [], 0
        for path in files:
            state, heads = path.stat(), pyarrow.parquet.read_metadata(path)
            for number in range(heads.num_row_groups):
                self._places.append((str(path), state.st_mtime_ns, number))
                self._starts.append(self._rows)
                self._rows += heads.row_group(number).num_rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int):
        place = bisect_right(self._starts, row) - 1
        group = row_group_cache().get((self._name, *self._places[place]), lambda: self._read(*self._places[place]))
        return group[int(row) - self._starts[place]].as_py()

    def place(self, row: int) -> str:
        """Where a row is, for a sentence."""
        place = bisect_right(self._starts, row) - 1
        path, _, number = self._places[place]
        return f"{path}, number {row - self._starts[place]} of row group {number}"

    def _read(self, path: str, _: int, number: int):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read_row_group(number, columns=[self._name], use_threads=False).column(0)
