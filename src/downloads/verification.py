"""Comparison of files on disk with the sizes and digests that a repository lists."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from src.runtime.files import hash_file


@dataclass(frozen=True)
class ExpectedFile:
    """A file as its repository describes it.

    size: bytes.
    digest: `sha256:...` of large files, `git:...` (the sha1 that git names contents by) of others.
    """

    size: int
    digest: str


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
