"""Copies of datasets on the Hugging Face Hub, downloaded as parquet files and pinned to one commit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import getsize, isfile
from pathlib import Path
from typing import TypeVar

from src.data.readers.subset_files import SubsetFiles
from src.downloads.hub import fetch as fetch_files
from src.downloads.record import DownloadRecord
from src.downloads.verification import COMMIT
from src.runtime.progress import SILENT, Prefixed, Progress

Files = TypeVar("Files", bound=SubsetFiles)


@dataclass(frozen=True)
class HubCopy:
    """A copy of a dataset on the Hub.

    repository: owner/name.
    patterns: of the files that are the dataset.
    revision: a commit, a tag or a branch; None for the main branch as it is at the first download. Which commit that
        was is in the folder's record, and a download that is repeated there takes the same.
    columns: what columns are called, by the name that is looked for.
    """

    repository: str
    patterns: Sequence[str] = ("*train*.parquet", "*test*.parquet", "*val*.parquet")
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, patterns: Sequence[str] | None = None, columns: Mapping[str, str] | None = None) -> "HubCopy | None":
        """Return the copy that a user's `owner/name` or `owner/name@revision` names; None if the text is neither."""
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(.+))?", text)
        if not match or match[1].startswith((".", "/")):
            return None
        return cls(match[1], tuple(patterns or cls.patterns), match[2], columns or {})

    def folder(self, data: Path) -> Path:
        """Return the folder to download into, below `data`: each revision has its own, so that several can lie side by side."""
        name = self.repository.replace("/", "--")
        revision = self.revision or ""
        revision = revision[:12] if COMMIT.fullmatch(revision) else revision.replace("/", "--")
        return data / "hub" / (f"{name}@{revision}" if revision else name)

    def reader(self, make: type[Files], task: str, data: Path) -> Files:
        """Return the reader of the files below `data`.

        make: its class.
        task: whose examples they are.
        """
        return make(task, self.folder(data), self.patterns, self.columns, lambda: self._pending_files(data))

    def fetch(self, data: Path, task: str, progress: Progress = SILENT) -> None:
        """Download the files of a task below `data`. Raise UserError with what went wrong."""
        progress = Prefixed(progress, f"{task} from {self.repository}: ")
        is_movable = self.revision and not COMMIT.fullmatch(self.revision)  # a branch or tag
        commit = self._record(data).commit if is_movable else None  # that of the first download, which is repeated
        folder, revision = self.folder(data), commit or self.revision
        fetch_files(self.repository, "dataset", self.patterns, folder, revision, progress=progress)

    def _pending_files(self, data: Path) -> list[str]:
        """Return the files that a download of these patterns has still to fetch; none where files were put there by hand."""
        folder, files = self.folder(data), self._record(data).matching(self.patterns)
        return [path for path, file in files.items() if not (isfile(folder / path) and getsize(folder / path) == file.size)]

    def _record(self, data: Path) -> DownloadRecord:
        return DownloadRecord(self.folder(data), f"dataset {self.repository}")
