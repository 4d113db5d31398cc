"""Copies of datasets on the Hugging Face Hub, downloaded as parquet files and pinned to one commit."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.parquet import Parquet
from src.fetching.hub import fetch as fetch_files
from src.files import write_json

PATTERNS = ("*train*.parquet", "*test*.parquet", "*val*.parquet")


@dataclass(frozen=True)
class Mirror:
    """A dataset repository; of its files, those that match `patterns`.

    revision: a commit, a tag or a branch; None for the main branch as it is at the first download. Which commit that
    was is kept beside the data, and a download that is repeated there takes the same.
    """

    repository: str
    patterns: Sequence[str] = PATTERNS
    revision: str | None = None
    suffix: bool = False  # the revision is part of the folder's name, so that several can lie side by side
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, patterns: Sequence[str] | None = None, columns: Mapping[str, str] | None = None) -> "Mirror | None":
        """A user's `owner/name` or `owner/name@revision`; None if the text is neither."""
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(.+))?", text)
        if not found or found[1].startswith((".", "/")):
            return None
        return cls(found[1], tuple(patterns or PATTERNS), found[2], suffix=found[2] is not None, columns=columns or {})

    def folder(self, data: Path) -> Path:
        name = self.repository.replace("/", "--")
        return data / "hub" / (f"{name}@{self.revision.replace('/', '--')}" if self.suffix and self.revision else name)

    def place(self, data: Path) -> Parquet:
        return Parquet(self.folder(data), data / "hub" / ".arrow", self.patterns, self._record(data), self.columns)

    def fetch(self, data: Path) -> None:
        record = self._record(data)
        pinned = json.loads(record.read_text())["commit"] if record.exists() else self.revision
        commit = fetch_files(self.repository, "dataset", self.patterns, self.folder(data), pinned)
        write_json(record, {"repository": self.repository, "commit": commit, "patterns": list(self.patterns)})

    def _record(self, data: Path) -> Path:
        folder = self.folder(data)
        return folder.with_name(f"{folder.name}.json")
