"""Pickled checkpoints and heads converted to safetensors, so that a pickle is read only once."""

from pathlib import Path

import xxhash

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import Checkpoint, metadata_of, open_tangent_pair
from src.checkpoints.shards import PICKLED
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.runtime.files import hash_file
from src.state_dict import digest

# What the metadata of a conversion say of its source.
SOURCE = "converted_from"  # name and digest
STATE = "converted_at"  # name, size and time of change
BESIDE = "converted_beside"  # the name of the other file that it became, or nothing


def pickled_files(folder: Path) -> list[Path]:
    """Return the files to convert in a folder and below it, by name.

    Masks are left out: published ones do not say which checkpoints they are of, and ours have to.
    """
    return sorted(path for path in folder.rglob("*")
                  if path.suffix in PICKLED and path.is_file() and not path.name.startswith((".", "TALL_mask"))
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))  # fmt: skip


def convert(source: Path, target: Path) -> list[Path]:
    """Write the conversion of `source` to `target`; return the files written, none if they are there already.

    Beside that of a linearized checkpoint, write the model that it is linearized around, as a zero-shot checkpoint. A
    source whose size and time of change are those it was converted at is not read again.

    Raise UserError if the source cannot be read, or if `target` is there and was not made from it.
    """
    earlier = metadata_of(target) if target.exists() else {}
    beside = earlier.get(BESIDE)
    if earlier.get(STATE) == _state(source) and beside is not None and (not beside or target.with_name(beside).exists()):
        return []
    identity = _identity(source)
    if target.exists() and earlier.get(SOURCE) != identity:
        raise UserError(f"{target} is there and was not made from {source} as it is now; move one of them away")
    checkpoints = _checkpoints(source, target)
    others = [path.name for path in checkpoints if path != target]
    metadata = {SOURCE: identity, STATE: _state(source), BESIDE: next(iter(others), "")}
    missing = {path: entries for path, entries in checkpoints.items() if not path.exists()}
    for path, entries in missing.items():
        save_file(entries, path, metadata)
    return list(missing)


def is_converted(source: Path, target: Path) -> bool:
    """Whether the conversion holds every entry of its source to the bit, so that the source may be removed."""
    checkpoints = _checkpoints(source, target)
    return all(
        path.exists() and digest(open_checkpoint(path).items()) == digest(entries.items())
        for path, entries in checkpoints.items()
    )


def _checkpoints(source: Path, target: Path) -> dict[Path, Checkpoint]:
    """Return what a pickled file is converted to, by path; `target` is written last, so where it is, the other one is."""
    finetuned, reference = open_tangent_pair(source)
    zeroshot = target.with_name(target.name.replace("finetuned", "zeroshot"))
    has_own_file = any(source.with_name(f"{zeroshot.stem}{suffix}").exists() for suffix in PICKLED)
    has_zeroshot = reference is not None and zeroshot != target and not has_own_file
    return {**({zeroshot: reference} if has_zeroshot else {}), target: finetuned}


def _state(source: Path) -> str:
    """Return what shows, without reading a source, that it has not changed."""
    state = source.stat()
    return f"{source.name} {state.st_size} {state.st_mtime_ns}"


def _identity(source: Path) -> str:
    """Return the name and the digest of a source."""
    return f"{source.name} {hash_file(source, xxhash.xxh3_128())}"
