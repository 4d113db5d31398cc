"""Copies of datasets on the Hugging Face Hub, downloaded as parquet files and pinned to one commit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from src.data.readers.parquet import Parquet
from src.downloads.hub import fetch as fetch_files
from src.downloads.record import DownloadRecord
from src.runtime.progress import SILENT, Progress

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubCopy:
    """A dataset repository; of its files, those that match `patterns`.

    revision: a commit, a tag or a branch; None for the main branch as it is at the first download. Which commit that
    was is in the folder's record, and a download that is repeated there takes the same.
    """

    repository: str
    patterns: Sequence[str] = ("*train*.parquet", "*test*.parquet", "*val*.parquet")
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, patterns: Sequence[str] | None = None, columns: Mapping[str, str] | None = None) -> "HubCopy | None":
        """A user's `owner/name` or `owner/name@revision`; None if the text is neither."""
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(.+))?", text)
        if not found or found[1].startswith((".", "/")):
            return None
        return cls(found[1], tuple(patterns or cls.patterns), found[2], columns or {})

    def folder(self, data: Path) -> Path:
        """One for each revision, so that several can lie side by side."""
        name = self.repository.replace("/", "--")
        revision = self.revision or ""
        revision = revision[:12] if COMMIT.fullmatch(revision) else revision.replace("/", "--")
        return data / "hub" / (f"{name}@{revision}" if revision else name)

    def reader(self, task: str, data: Path) -> Parquet:
        return Parquet(task, self.folder(data), self.patterns, self.columns, lambda: self._absent(data))

    def fetch(self, data: Path, progress: Progress = SILENT) -> None:
        """Download the files below `data`. Raise UserError with what went wrong."""
        moving = self.revision and not COMMIT.fullmatch(self.revision)
        recorded = self._record(data).commit if moving else None
        folder, revision = self.folder(data), recorded or self.revision
        fetch_files(self.repository, "dataset", self.patterns, folder, revision, progress=progress)

    def _absent(self, data: Path) -> list[str]:
        """The files that a download of these patterns has still to fetch; none where files were put there by hand."""
        folder = self.folder(data)
        wanted = {
            path: file.size
            for path, file in self._record(data).files.items()
            if any(fnmatchcase(path, pattern) for pattern in self.patterns)
        }
        return [path for path, size in wanted.items() if not (folder / path).is_file() or (folder / path).stat().st_size != size]

    def _record(self, data: Path) -> DownloadRecord:
        return DownloadRecord(self.folder(data), f"dataset {self.repository}")
