"""Files that appear under their name only when they are complete, so that a killed run destroys nothing."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A draft to write in the folder of `path`; it takes the name `path` if the block ends well, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        draft.replace(path)
    except OSError as reason:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no room left on the disk while writing {path}; free some, or choose another place") from reason
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(folder: Path, expected: set[str]) -> Iterator[Path]:
    """As `written_beside`, for a whole folder; one that exists is replaced only if it holds nothing but `expected`."""
    strangers = sorted(set(os.listdir(folder)) - expected) if folder.is_dir() else []
    if strangers:
        raise UserError(f"{folder} holds other files ({', '.join(strangers[:3])}); choose an output folder of its own")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            folder.replace(old)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
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
