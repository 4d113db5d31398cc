"""Whether a folder of results is whole: what is in it, which of it is torn, unreadable, or left behind."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import xxhash
from PIL import Image

from src.checkpoints.opening import open_checkpoint
from src.runtime.files import hash_file

State = dict[str, str]  # digests by the name of what appears at once: a file, or a folder that is written whole

VOLATILE = ("seconds", "peak_memory_bytes")  # of a record: they differ between runs that find the same
PROGRESS = ("_unfinished.safetensors", "_training.jsonl")  # of a fine-tuning: they grow, and say how fast it was
LOCK = ".lock"  # these stay: who waits for a lock and who comes later must lock the same file


def list_files(folder: Path) -> list[Path]:
    """Return all files and empty folders below a folder, hidden ones included, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir()))


def is_hidden(path: Path) -> bool:
    """Whether a part of a relative path starts with a dot."""
    return any(part.startswith(".") for part in path.parts)


def state_of(folder: Path, unit: Callable[[Path], str] = str) -> State:
    """Return the digests of what lies under final names, progress of fine-tunings left out.

    unit: the name of what appears at once with a file.
    """
    parts: dict[str, list[str]] = {}
    for path in list_files(folder):
        if not is_hidden(path) and not path.name.endswith(PROGRESS):
            parts.setdefault(unit(path), []).append(f"{path} {_digest(folder / path)}")
    return {name: xxhash.xxh3_128_hexdigest("\n".join(lines).encode()) for name, lines in parts.items()}


def _digest(path: Path) -> str:
    """Return the digest of a file's bytes; of a record, of what is not volatile; "" of an empty folder."""
    if path.is_dir():
        return ""
    if path.suffix == ".json":
        try:
            record = json.loads(path.read_text())
        except ValueError:
            record = None
        if isinstance(record, dict):
            kept = {key: value for key, value in record.items() if key not in VOLATILE}
            return xxhash.xxh3_128_hexdigest(json.dumps(kept).encode())
    return hash_file(path, xxhash.xxh3_128())


def torn(state: State, earlier: State, later: State) -> list[str]:
    """Return the names that are neither what they were before a command nor what they are after it."""
    names = sorted(state.keys() | earlier.keys() | later.keys())
    return [name for name in names if state.get(name) not in (earlier.get(name), later.get(name))]


def unreadable(folder: Path) -> list[str]:
    """Return the files under final names that cannot be opened as what their name says."""
    return [str(path) for path in list_files(folder) if not is_hidden(path) and not _opens(folder / path)]


def _opens(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            open_checkpoint(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).verify()
    except Exception:  # whatever a torn file makes of a reader
        return False
    return True


def left_behind(folder: Path, expected: Iterable[Path]) -> list[str]:
    """Return the hidden files but locks, and the files that are not `expected`, below a folder."""
    known = set(expected)
    unknown = [path for path in list_files(folder) if path not in known and path.suffix != LOCK]
    return [*drafts(folder), *(str(path) for path in unknown if not is_hidden(path))]


def drafts(folder: Path) -> list[str]:
    """Return the hidden files below a folder, locks left out."""
    return [str(path) for path in list_files(folder) if is_hidden(path) and path.suffix != LOCK]


def locks(folder: Path) -> list[str]:
    """Return the lock files below a folder."""
    return [str(path) for path in list_files(folder) if path.suffix == LOCK]
