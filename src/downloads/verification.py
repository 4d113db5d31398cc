"""Comparison of files on disk with the sizes and digests that a repository lists."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from src.runtime.files import hash_file

COMMIT = re.compile("[0-9a-f]{40}")  # the sha1 that git names commits by
DIGEST = re.compile("sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
LARGEST_FILE = 2**50  # bytes: what is larger is no size


@dataclass(frozen=True)
class ExpectedFile:
    """A file as its repository describes it. Raise ValueError if no file is like that.

    size: bytes.
    digest: `sha256:...` of large files, `git:...` (the sha1 that git names contents by) of others.
    """

    size: int
    digest: str

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 0 <= self.size <= LARGEST_FILE or not DIGEST.fullmatch(self.digest):
            raise ValueError("no file has such a size or digest")


def has_contents(path: Path, expected: ExpectedFile) -> bool:
    """Whether the file has the expected contents. Reads all of it, unless its size is another."""
    if path.stat().st_size != expected.size:
        return False
    kind, _, digest = expected.digest.partition(":")
    hasher = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {expected.size}\0".encode(), usedforsecurity=False)
    return hash_file(path, hasher) == digest


def is_unchanged(path: Path, expected: ExpectedFile, verified: list | None) -> bool:
    """Whether a file is as it was when it was verified: [size, time of change, digest]. Reads nothing of it."""
    if verified is None or not path.is_file():
        return False
    state = path.stat()
    return verified == [state.st_size, state.st_mtime_ns, expected.digest]
