"""Tables of rows: parquet files, as the Hub serves them, or files of JSON lines or CSV."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset

from src.data.readers.errors import dataset_errors
from src.data.readers.parquet_files import checked_metadata
from src.data.readers.row_groups import Column
from src.data.readers.subset_files import SubsetFiles
from src.errors import UserError, shorten
from src.runtime.untrusted import parse_json, read_text

Row = Mapping[str, object]

LARGEST_TEXT = 2**28  # bytes of a file of JSON lines or CSV, which is held in memory


@dataclass(frozen=True)
class Tables(SubsetFiles):
    """Reader of tables; a subset may have several files of one format, whose rows follow one another by their names.

    columns: what columns are called in the files, by the name that a row has them under; where a file has no such, that name.
    roles: what the files of train and test are called, where that is another subset's name; files of no role are left alone.
    """

    kind: ClassVar[str] = "Tables"
    endings: ClassVar[Sequence[str]] = (".parquet", ".jsonl", ".csv")

    roles: Mapping[str, str] = field(default_factory=dict)

    def load(self, subset: str, names: Sequence[str]) -> "Dataset[Row]":
        """Return the rows of a subset, of these columns. Raise UserError if they cannot be read, or lack a column."""
        files = self.files(subset)
        endings = sorted({path.suffix for path in files})
        if len(endings) > 1:
            raise UserError(f"{files[0].parent} has {subset} files in {' and '.join(endings)}; leave those of one format")
        with dataset_errors(f"{shorten(files)} cannot be read", "fix it, or get it again"):
            if endings == [".parquet"]:
                available = checked_metadata(files[0]).schema.to_arrow_schema().names
                return ParquetRows(files, self._choose(names, available, files[0]))
            rows = [row for path in files for row in FORMATS[path.suffix](path)]
            columns = self._choose(names, list(rows[0]) if rows else names, files[0])
            return [{name: row.get(column) for name, column in columns.items()} for row in rows]

    def _choose(self, names: Sequence[str], available: Sequence[str], path: Path) -> dict[str, str]:
        """Return the column of each name. Raise UserError for all that are not there."""
        columns = {name: next((c for c in (self.columns.get(name), name) if c in available), None) for name in names}
        missing = [name for name, column in columns.items() if column is None]
        if missing:
            remedy = ", ".join(f"{name}: NAME" for name in missing)
            raise UserError(
                f"{path} has no column {shorten(missing)}, which task {self.task} reads (it has {shorten(available, 9)}); "
                f"say 'tasks.{self.task}.columns={{{remedy}}}'"
            )
        return columns

    @property
    def _words(self) -> Mapping[str, str]:
        return self.roles or super()._words

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        if not self.roles:
            return super()._files
        files = self._files_as_called()
        return {subset: files[word] for subset, word in self.roles.items() if word in files}


class ParquetRows(Dataset):
    """Rows of parquet files, read by row groups when they are asked for.

    columns: by the name that rows have them under.
    """

    def __init__(self, files: Sequence[Path], columns: Mapping[str, str]):
        self._files = shorten(files)
        self._columns = {name: Column(files, column) for name, column in columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with dataset_errors(f"row {index} of {self._files} cannot be read", "get it again"):
            return {name: column[index] for name, column in self._columns.items()}


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path, LARGEST_TEXT).splitlines(), start=1):
        if line.strip():
            row = parse_json(line, f"line {number} of {path}")
            if not isinstance(row, dict):
                raise UserError(f"line {number} of {path} is no JSON object; give each row as one, {{COLUMN: VALUE, ...}}")
            yield row


def _csv_lines(path: Path) -> Iterable[Row]:
    """Return the rows below the line of names; a column of whole numbers is one of numbers."""
    lines = csv.reader(StringIO(read_text(path, LARGEST_TEXT), newline=""), strict=True)
    names = next(lines, [])
    columns = list(zip(*[line for line in lines if line], strict=True))
    numbers = [all(re.fullmatch(r"-?\d{1,18}", value) for value in column) for column in columns]
    values = [map(int, column) if is_number else column for column, is_number in zip(columns, numbers)]
    return [dict(zip(names, row, strict=True)) for row in zip(*values)]


FORMATS = {".jsonl": _json_lines, ".csv": _csv_lines}
