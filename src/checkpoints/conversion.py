"""Pickled checkpoints and heads as safetensors beside them: read once, mapped ever after, and no pickle any more."""

from pathlib import Path

import xxhash

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import Checkpoint, metadata_of, open_tangent_pair
from src.checkpoints.shards import PICKLED
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.runtime.files import hash_file
from src.state_dict import digest

SOURCE = "converted_from"  # its name and digest
STATE = "converted_at"  # its name, size and time of change
BESIDE = "converted_beside"  # the name of the other file it became, or nothing


def pickled_files(folder: Path) -> list[Path]:
    """The files to convert in a folder and below it, by name.

    Masks are left out: published ones do not say which checkpoints they are of, and ours have to.
    """
    return sorted(path for path in folder.rglob("*")
                  if path.suffix in PICKLED and path.is_file() and not path.name.startswith((".", "TALL_mask"))
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))  # fmt: skip


def convert(source: Path, target: Path) -> list[Path]:
    """Write `target`, and beside that of a linearized checkpoint the model it is linear around, as a zero-shot one.

    Returns the files written: none if they are there from this source already, of which nothing is read if its size and
    time of change are those it was converted at. Raises UserError if the source cannot be read, or `target` is there and
    was not made from it.
    """
    made_from = metadata_of(target) if target.exists() else {}
    beside = made_from.get(BESIDE)
    if made_from.get(STATE) == _state(source) and beside is not None and (not beside or target.with_name(beside).exists()):
        return []
    mark = _mark(source)
    if target.exists() and made_from.get(SOURCE) != mark:
        raise UserError(f"{target} is there and was not made from {source} as it is now; move one of them away")
    parts = _parts(source, target)
    told = {SOURCE: mark, STATE: _state(source), BESIDE: next((path.name for path in parts if path != target), "")}
    missing = {path: weights for path, weights in parts.items() if not path.exists()}
    for path, weights in missing.items():
        save_file(weights, path, told)
    return list(missing)


def is_same(source: Path, target: Path) -> bool:
    """Whether the conversion holds every entry of its source to the bit, so that the source may go."""
    parts = _parts(source, target)
    return all(path.exists() and digest(open_checkpoint(path).items()) == digest(parts[path].items()) for path in parts)


def _parts(source: Path, target: Path) -> dict[Path, Checkpoint]:
    """The files that a pickled one becomes, `target` last: where it is, the other is."""
    finetuned, reference = open_tangent_pair(source)
    zeroshot = target.with_name(target.name.replace("finetuned", "zeroshot"))
    published = any(source.with_name(f"{zeroshot.stem}{suffix}").exists() for suffix in PICKLED)
    wanted = reference is not None and zeroshot != target and not published
    return {**({zeroshot: reference} if wanted else {}), target: finetuned}


def _state(source: Path) -> str:
    """What tells, without reading it, that a source is as it was."""
    state = source.stat()
    return f"{source.name} {state.st_size} {state.st_mtime_ns}"


def _mark(source: Path) -> str:
    """Return what a conversion remembers of its source."""
    return f"{source.name} {hash_file(source, xxhash.xxh3_128())}"
