"""A place: one way in which a task's examples lie on disk."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from src.data.task import Examples
from src.errors import UserError, shorten


class ExampleReader(Protocol):
    """Examples below `root`; nothing is read before it is asked for.

    kind: part of every digest of examples, so it is a literal that outlives the names of classes.
    """

    kind: str

    @property
    def root(self) -> Path: ...

    @property
    def subsets(self) -> Sequence[str]:
        """Which of train, val and test are here."""

    def missing_files(self) -> list[str]:
        """What must be here and is not."""

    def files(self, subset: str) -> Iterable[Path]:
        """The files, and folders of files, that a part is read from."""

    def names(self) -> Sequence[str] | None:
        """The classes in the order of the labels that `load` gives; None if the format names none."""

    def load(self, subset: str) -> Examples: ...


def require_listed(what: str, paths: Iterable[str]) -> None:
    """Raise UserError for images that a list names and that are not there. Each folder is read once, no image is opened."""
    wanted = defaultdict(list)
    for path in paths:
        folder, name = os.path.split(path)
        wanted[folder].append(name)
    absent, total = [], 0
    for folder, names in wanted.items():
        total += len(names)
        there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        absent += [os.path.join(folder, name) for name in names if name not in there]
    if absent:
        raise UserError(
            f"{len(absent):,} of the {total:,} images that {what} lists are not there ({shorten(absent, 2)}); "
            f"unpack its archive again"
        )


def listing_digest(root: Path, files: Iterable[Path]) -> str:
    """A digest of names, sizes and times of change of files; the place itself may move."""
    digest, prefix = xxhash.xxh3_128(), len(str(root / "x")) - 1
    for source in sorted(files):
        for path, status in _files(source):
            digest.update(f"{path[prefix:]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(source: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not source.is_dir():
        yield str(source), source.stat()
        return
    folders, seen = [str(source)], set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above would never end
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        folders += [entry.path for entry in reversed(entries) if entry.is_dir()]
        yield from ((entry.path, entry.stat()) for entry in entries if not entry.is_dir())
