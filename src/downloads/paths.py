"""The paths that a repository gives its files: those that can lie in a folder, and in no other."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath

from src.downloads.errors import show
from src.errors import raise_any

LONGEST_NAME = 225  # bytes; drafts have names of up to 30 more, and file systems take 255
LONGEST_PATH = 1024  # bytes below the folder
MOST_FAULTS = 3  # that are said of a listing, which may be all of them
UNWRITABLE = ("Cc", "Cs")  # categories of control characters and halves of letters


def check_paths(paths: Collection[str], what: str, folder: Path) -> None:
    """Raise UserError with all paths that cannot lie below `folder`, or would be written elsewhere.

    what: the repository that names them, for messages.
    """
    outcome = "nothing was fetched; download what you need of it by hand"
    faults = (f"{what} names a file {fault}, {show(path)}; {outcome}" for path in paths if (fault := _fault(path)))
    raise_any(islice(faults, MOST_FAULTS))
    faults = (f"{what} names both a file and a folder {show(path)}; {outcome}" for path in _files_with_files(paths))
    raise_any(islice(faults, MOST_FAULTS))
    root = os.path.realpath(folder)
    parents = sorted({(folder / path).parent for path in paths})
    raise_any(
        f"{parent} leads out of {folder} by a link, and nothing is fetched to there; make {folder} itself the link, or remove it"
        for parent in parents
        if not Path(os.path.realpath(parent)).is_relative_to(root)
    )


def _fault(path: str) -> str | None:
    """Return what is wrong with a path; None if nothing is."""
    if any(unicodedata.category(letter) in UNWRITABLE for letter in path):
        return "with letters that cannot be written"
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/") or "\\" in path:
        return "outside its folder"
    if not parts or "/".join(parts) != path:
        return "in no usual form"
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "with a name that is too long"
    return None


def _files_with_files(paths: Collection[str]) -> Iterator[str]:
    """Yield the paths of files that others lie below."""
    ordered = sorted(paths, key=lambda path: path.split("/"))
    return (path for path, following in pairwise(ordered) if following.startswith(path + "/"))
