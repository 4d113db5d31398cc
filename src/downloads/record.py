"""A download folder's record of each repository's commit and verified files, which need no second request or check."""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from src.downloads.verification import COMMIT, ExpectedFile, is_unchanged
from src.runtime.files import write_json
from src.runtime.untrusted import read_json

RECORD = ".fetched.json"
HIDDEN = re.compile(r"(^|/)\.(?!\.?(/|$))")  # a name that begins with a dot, and is not `.` or `..`
PAUSE = 5.0  # seconds between two writings, which take long where a repository has many files


class DownloadRecord:
    """The record of one repository in a folder.

    commit: that was fetched; None before.
    files: those that it has, by path.
    verified: state and digest of the files that were verified here, by path.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._last_write = folder, name, time.monotonic()
        try:
            self._all = read_json(folder / RECORD)
            own = self._all.get(name, {})
            self.files = {path: ExpectedFile(*facts) for path, facts in own.get("files", {}).items()}
            self.verified = dict(own.get("verified", {}))
            self.commit = own.get("commit")
            if self.commit is not None and not COMMIT.fullmatch(self.commit):
                raise ValueError(self.commit)
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or spoiled: everything is verified again
            self._all, self.files, self.verified, self.commit = {}, {}, {}, None

    def is_of(self, revision: str | None) -> bool:
        """Whether the record is of `revision`: a commit, or None for whichever was fetched first."""
        return self.commit is not None and revision in (None, self.commit)

    def start(self, commit: str, files: dict[str, ExpectedFile]) -> None:
        """Begin the record of a commit."""
        self.commit, self.files = commit, files

    @property
    def visible(self) -> dict[str, ExpectedFile]:
        """The files that are neither hidden nor in a hidden folder: under such names is what belongs to git and to us."""
        return {path: file for path, file in self.files.items() if not HIDDEN.search(path)}

    def matching(self, patterns: Sequence[str]) -> dict[str, ExpectedFile]:
        """Return the visible files whose paths match one of the patterns."""
        return {path: file for path, file in self.visible.items() if any(fnmatchcase(path, pattern) for pattern in patterns)}

    def is_verified(self, path: str) -> bool:
        """Whether a file is as it was when it was verified."""
        return is_unchanged(self._folder / path, self.files[path], self.verified.get(path))

    def verify(self, path: str) -> None:
        """Note that a file has the contents that the repository says it has."""
        state = (self._folder / path).stat()
        self.verified[path] = [state.st_size, state.st_mtime_ns, self.files[path].digest]
        if time.monotonic() > self._last_write + PAUSE:
            self._write()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Write the record when the block, in which files are downloaded and verified, begins and when it ends."""
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
        self._last_write = time.monotonic()
