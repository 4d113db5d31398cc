"""Files that appear under their name only when they are complete, so that a killed run destroys nothing."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write meets where no room is left

_numbers = itertools.count()
_open_drafts: set[Path] = set()
_cleared: set[Path] = set()


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A draft to write in the folder of `path`; it takes the name `path` if the block ends well, else it is removed."""
    _prepare(path.parent)
    with _draft(path, "part") as draft, _room_problems(path):
        yield draft
        draft.replace(path)


@contextlib.contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """As `written_beside`, for a whole folder, which is replaced if it exists."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a folder is to be written; choose another name")
    _prepare(folder.parent)
    with _draft(folder, "part") as draft, _draft(folder, "old") as old, _room_problems(folder):
        draft.mkdir()
        yield draft
        if folder.exists():
            folder.replace(old)
        draft.replace(folder)


def require_room(folder: Path, size: int) -> None:
    """Raise UserError unless `size` bytes fit on the disk of `folder` (which need not exist yet)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder} has {free / 2**20:,.0f} MiB free and {size / 2**20:,.0f} are needed; free some first")


def write_json(path: Path, value: object) -> None:
    with written_beside(path) as draft:
        draft.write_text(json.dumps(value, indent=2) + "\n")


def _prepare(folder: Path) -> None:
    """Make a folder, and once a process clear it of what killed processes left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise UserError(f"the folder {folder} cannot be made ({reason.strerror}); choose another place") from reason
    if folder.resolve() not in _cleared:
        _cleared.add(folder.resolve())
        _clear_drafts(folder)


@contextlib.contextmanager
def _draft(path: Path, kind: str) -> Iterator[Path]:
    """A hidden name in the same folder that no other process or call uses; what is left there at the end is removed."""
    draft = path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}~{next(_numbers)}.{kind}")
    _open_drafts.add(draft)
    try:
        yield draft
    finally:
        if kind == "old" and draft.exists() and not path.exists():
            draft.replace(path)
        _remove(draft)
        _open_drafts.discard(draft)


@contextlib.contextmanager
def _room_problems(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        if reason.errno in FULL:
            said = f"no room left while writing {path} ({reason.strerror}); free some or choose another place"
            raise UserError(said) from reason
        raise


def _clear_drafts(folder: Path) -> None:
    """Put back folders that were moved away and never replaced; remove drafts of this machine's dead processes."""
    for left in folder.glob(".*~*~*~*"):
        name, host, pid, rest = left.name[1:].rsplit("~", 3)
        number, _, kind = rest.partition(".")
        if left in _open_drafts or not pid.isdigit() or not number.isdigit() or kind not in ("part", "old"):
            continue
        ours = host == socket.gethostname()
        if ours and int(pid) != os.getpid() and _alive(int(pid)):
            continue
        if kind == "old" and not (folder / name).exists():
            left.replace(folder / name)
        elif ours:
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
