"""Files that appear under their name only when they are complete, so that a killed run destroys nothing."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from src.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, an exhausted quota, a limit of file sizes
BETWEEN_RENAMES = 600  # seconds after which another machine is surely no longer between the two renames of a folder
HASH_BLOCK = 2**22
MARK = re.compile(r"(?P<host>[^~]+)~(?P<pid>\d+)~\d+$")  # of a call in a process, at the end of a name
DRAFT = re.compile(r"\.(?P<name>.+)~(?P<mark>[^~]+~\d+~\d+)\.(?P<kind>part|old)")

_numbers = itertools.count()
_open_drafts: set[Path] = set()
_cleared: set[Path] = set()


class Hash(Protocol):
    """A hash object, as of hashlib or xxhash."""

    def update(self, data: bytes) -> None: ...

    def hexdigest(self) -> str: ...


def file_state(path: object) -> list:
    """Return what changes when a file does, as JSON values: its path, size and time of change; of none, its path alone."""
    file = expand_path(path).resolve()
    try:
        return [str(file), file.stat().st_size, file.stat().st_mtime_ns]
    except OSError:
        return [str(file)]


def expand_path(path: object) -> Path:
    """Return the path that a user typed, with `~` and `~user` at its start expanded.

    Raise UserError if there is no such user.
    """
    expanded = os.path.expanduser(str(path))
    if expanded.startswith("~"):
        raise UserError(f"{path}: no user here is called {expanded.split('/')[0][1:]}; write ./{path} if it is a file's name")
    return Path(expanded)


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a draft to write, in the folder of `path`; it is renamed to `path` if the block ends well, else removed."""
    _prepare(path.parent)
    with _draft(path, "part") as draft, _space_errors(path):
        yield draft
        draft.replace(path)


@contextlib.contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yield a draft folder to fill, which becomes `folder` as in `written_beside`; an earlier `folder` is replaced.

    Raise UserError if `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a folder is to be written; choose another name")
    _prepare(folder.parent)
    with _draft(folder, "part") as draft, _draft(folder, "old") as old, _space_errors(folder):
        draft.mkdir()
        yield draft
        _exchange(draft, folder, old)


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file that takes long to make; `on_wait` is called first if another process holds it.

    The lock is a file beside it, which stays: who waits for it and who comes later must lock the same one.

    Raise UserError if the folder cannot be made, or written.
    """
    _prepare(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    except OSError as error:
        raise UserError(f"the folder {path.parent} cannot be written ({error.strerror}); choose another place") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Yield whether the lock at `path` could be taken at once, and hold it then; the file stays.

    Raise UserError if the folder cannot be made, or written.
    """
    _prepare(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise UserError(f"the folder {path.parent} cannot be written ({error.strerror}); choose another place") from error
    try:
        yield True
    finally:
        lock.release()


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, complete or not at all."""
    with written_beside(path) as draft:
        draft.write_text(json.dumps(value, indent=2) + "\n")


def process_mark() -> str:
    """Return the end of a name that no other process or call has now, and that says whether this process still runs."""
    return f"{socket.gethostname()}~{os.getpid()}~{next(_numbers)}"


def is_abandoned(name: str) -> bool:
    """Whether a name ends in the mark of a process of this machine that runs no more."""
    parts = MARK.search(name)
    if not parts or parts["host"] != socket.gethostname():
        return False
    pid = int(parts["pid"])
    return pid == os.getpid() or not _is_alive(pid)  # an earlier process had the number of this one


def require_space(folder: Path, size: int) -> None:
    """Raise UserError unless `size` bytes fit on the disk of `folder`, which need not exist yet.

    What killed processes left in it is removed first: it may be as large.
    """
    while not folder.exists():
        folder = folder.parent
    _clear_once(folder)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder} has {free / 2**20:,.0f} MiB free and {size / 2**20:,.0f} are needed; free some first")


def hash_file(path: Path, hasher: Hash) -> str:
    """Return the hex digest of a file's bytes, added to what `hasher` has seen."""
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def _prepare(folder: Path) -> None:
    """Make a folder; the first time in this process, remove from it what killed processes left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}); choose another place") from error
    _clear_once(folder)


def _clear_once(folder: Path) -> None:
    """Clear a folder of drafts, the first time in this process."""
    if folder.resolve() not in _cleared:
        _cleared.add(folder.resolve())
        _clear_drafts(folder)


@contextlib.contextmanager
def _draft(path: Path, kind: str) -> Iterator[Path]:
    """Yield a hidden name in the same folder that no other process or call uses; what is left there is removed."""
    draft = path.with_name(f".{path.name}~{process_mark()}.{kind}")
    _open_drafts.add(draft)
    try:
        yield draft
    finally:
        if kind == "old" and draft.exists() and not path.exists():
            draft.replace(path)
        _remove(draft)
        _open_drafts.discard(draft)


def _exchange(draft: Path, folder: Path, old: Path) -> None:
    """Rename `folder`, if there is one, to `old`, and `draft` to `folder`, whatever other processes put there meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            folder.replace(old)
        try:
            draft.replace(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _remove(old)  # the folder that has come meanwhile is the earlier one now


@contextlib.contextmanager
def _space_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        message = f"no space left while writing {path} ({error.strerror}); free some or choose another place"
        raise UserError(message) from error


def _clear_drafts(folder: Path) -> None:
    """Put back folders that were moved away and never replaced; remove drafts of this machine's dead processes."""
    for draft in folder.glob(".*~*~*~*"):
        parts = DRAFT.fullmatch(draft.name)
        if draft in _open_drafts or not parts:
            continue
        is_ours, path = is_abandoned(parts["mark"]), folder / parts["name"]
        is_elsewhere = not parts["mark"].startswith(f"{socket.gethostname()}~")
        with contextlib.suppress(OSError):  # another process clears it, too, or it is another user's
            if parts["kind"] == "old" and not path.exists():
                if is_ours or (is_elsewhere and _age(draft) > BETWEEN_RENAMES):
                    draft.replace(path)
            elif is_ours:
                _remove(draft)


def _age(path: Path) -> float:
    """Return the seconds since `path` was renamed; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
