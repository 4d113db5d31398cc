"""What a folder remembers of the repositories it was fetched from, so that they are asked once and read once."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from src.downloads.verification import Expected, unchanged
from src.runtime.files import write_json

RECORD = ".fetched.json"
PAUSE = 5.0  # seconds between two writings, which take long where a repository has many files


class Record:
    """Of one repository: its commit, the files that has, and those that were verified here."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._written = folder, name, time.monotonic()
        try:
            self._all = json.loads((folder / RECORD).read_text())
            own = self._all.get(name, {})
            self.files = {path: Expected(*facts) for path, facts in own.get("files", {}).items()}
            self.verified = dict(own.get("verified", {}))
            self.commit = own.get("commit")
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or spoiled: everything is verified again
            self._all, self.files, self.verified, self.commit = {}, {}, {}, None

    def is_of(self, revision: str | None) -> bool:
        return self.commit is not None and revision in (None, self.commit)

    def start(self, commit: str, files: dict[str, Expected]) -> None:
        self.commit, self.files = commit, files

    def is_verified(self, path: str) -> bool:
        return unchanged(self._folder / path, self.files[path], self.verified.get(path))

    def note(self, path: str) -> None:
        state = (self._folder / path).stat()
        self.verified[path] = [state.st_size, state.st_mtime_ns, self.files[path].digest]
        if time.monotonic() > self._written + PAUSE:
            self._write()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        self._write()  # before any file, so that a killed run has its commit
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        files = {path: [file.size, file.digest] for path, file in self.files.items()}
        own = {"commit": self.commit, "files": files, "verified": self.verified}
        if self._all.get(self._name) != own:
            self._all[self._name] = {**own, "verified": dict(self.verified)}
            write_json(self._folder / RECORD, self._all)
        self._written = time.monotonic()
