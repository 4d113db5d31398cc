"""Files that appear under their name only when they are complete, so that a killed run destroys nothing."""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A draft to write in the folder of `path`; it takes the name `path` if the block ends well, else it is removed."""
    _make_folder(path.parent)
    _clear_drafts(path)
    draft = _beside(path, "part")
    try:
        with _room_problems(path):
            yield draft
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(folder: Path, expected: set[str]) -> Iterator[Path]:
    """As `written_beside`, for a whole folder; one that exists is replaced only if it holds nothing but `expected`."""
    _make_folder(folder.parent)
    _clear_drafts(folder)
    strangers = sorted(set(os.listdir(folder)) - expected) if folder.is_dir() else []
    if strangers:
        raise UserError(f"{folder} holds other files ({', '.join(strangers[:3])}); choose an output folder of its own")
    draft, old = _beside(folder, "part"), _beside(folder, "old")
    try:
        with _room_problems(folder):
            draft.mkdir()
            yield draft
            if folder.exists():
                folder.replace(old)
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise UserError(f"the folder {folder} cannot be made ({reason.strerror}); choose another place") from reason


@contextlib.contextmanager
def _room_problems(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"no room left while writing {path} ({reason.strerror}); free some or choose another place"
            ) from reason
        raise


def _beside(path: Path, kind: str) -> Path:
    """A hidden name in the same folder, of this process alone: parallel runs may write the same path."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def _clear_drafts(path: Path) -> None:
    """Remove what processes of this machine that are no more left beside `path`; put back a folder they moved away."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.iterdir():
        pid, _, kind = left.name.removeprefix(prefix).partition(".")
        if not left.name.startswith(prefix) or not pid.isdigit() or _alive(int(pid)):
            continue
        if kind == "old" and not path.exists():
            left.replace(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
