"""The protocol of a reader of examples on disk, and what readers share."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from src.data.location import Reader
from src.data.task import Examples
from src.errors import UserError, shorten


class ExampleReader(Reader, Protocol):
    """A reader of images.

    kind: part of every digest of examples, so it is a literal that outlives the names of classes.
    """

    kind: str

    def class_names(self) -> Sequence[str] | None:
        """Return the classes in the order of the labels that `load` gives; None if the format names none."""

    def load(self, subset: str) -> Examples:
        """Return all examples of a subset."""


def require_listed(what: str, paths: Iterable[str]) -> None:
    """Raise UserError if images that a list names are not there. Read each folder once, and open no image.

    what: what lists them.
    """
    names_by_folder = defaultdict(list)
    for path in paths:
        folder, name = os.path.split(path)
        names_by_folder[folder].append(name)
    absent, total = [], 0
    for folder, names in names_by_folder.items():
        total += len(names)
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        absent += [os.path.join(folder, name) for name in names if name not in present]
    if absent:
        raise UserError(
            f"{len(absent):,} of the {total:,} images that {what} lists are not there ({shorten(absent, 2)}); "
            f"unpack its archive again"
        )


def listing_digest(root: Path, files: Iterable[Path]) -> str:
    """Return a digest of the names below `root`, the sizes and the times of change of files, and of all in folders."""
    digest, prefix = xxhash.xxh3_128(), len(str(root / "x")) - 1
    for source in sorted(files):
        for path, status in _files(source):
            digest.update(f"{path[prefix:]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(source: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and status of a file, or of all files below a folder, in a fixed order."""
    if not source.is_dir():
        yield str(source), source.stat()
        return
    folders, visited = [str(source)], set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above would never end
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        folders += [entry.path for entry in reversed(entries) if entry.is_dir()]
        yield from ((entry.path, entry.stat()) for entry in entries if not entry.is_dir())
