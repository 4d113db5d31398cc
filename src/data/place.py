"""A place: one way in which a task's examples lie on disk."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from src.data.task import Examples


class Place(Protocol):
    """Examples below `root`; nothing is read before it is asked for."""

    @property
    def root(self) -> Path: ...

    @property
    def parts(self) -> Sequence[str]:
        """Which of train, val and test are here."""

    def lacks(self) -> list[str]:
        """What must be here and is not."""

    def sources(self, part: str) -> Iterable[Path]:
        """The files, and folders of files, that a part is read from."""

    def names(self) -> Sequence[str] | None:
        """The classes in the order of the labels that `load` gives; None if the format names none."""

    def load(self, part: str) -> Examples: ...


def listing_digest(root: Path, sources: Iterable[Path]) -> str:
    """A digest of names, sizes and times of change of files; the place itself may move."""
    digest = xxhash.xxh3_128()
    for source in sorted(sources):
        for path, status in _files(source):
            digest.update(f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(source: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not source.is_dir():
        yield str(source), source.stat()
        return
    folders = [str(source)]
    while folders:
        with os.scandir(folders.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        folders += [entry.path for entry in reversed(entries) if entry.is_dir()]
        yield from ((entry.path, entry.stat()) for entry in entries if not entry.is_dir())
