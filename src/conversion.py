"""Pickled checkpoints and heads as safetensors beside them: read once, mapped ever after, and no pickle any more."""

import contextlib
from pathlib import Path

import xxhash

from src.checkpoints import PICKLED, Checkpoint, metadata_of, open_checkpoint, open_reference
from src.errors import UserError
from src.saving import save_file
from src.state_dict import digest

SOURCE = "converted_from"
PIECE = 2**22


def pickled_files(folder: Path) -> list[Path]:
    """The files to convert in a folder and below it, by name.

    Masks are left out: published ones do not say which checkpoints they are of, and ours have to.
    """
    return sorted(path for path in folder.rglob("*")
                  if path.suffix in PICKLED and path.is_file() and not path.name.startswith((".", "TALL_mask"))
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))  # fmt: skip


def convert(source: Path, target: Path) -> list[Path]:
    """Write `target`, and beside that of a linearized checkpoint the model it is linear around, as a zero-shot one.

    Returns the files written: none if they are there from this source already. Raises UserError if the source cannot be
    read, or `target` is there and was not made from it.
    """
    mark = _mark(source)
    if target.exists() and metadata_of(target).get(SOURCE) != mark:
        raise UserError(f"{target} is there and was not made from {source} as it is now; move one of them away")
    missing = {path: weights for path, weights in _parts(source, target).items() if not path.exists()}
    for path, weights in missing.items():
        save_file(weights, path, {SOURCE: mark})
    return list(missing)


def is_same(source: Path, target: Path) -> bool:
    """Whether the conversion holds every entry of its source to the bit, so that the source may go."""
    parts = _parts(source, target)
    return all(path.exists() and digest(open_checkpoint(path).items()) == digest(parts[path].items()) for path in parts)


def _parts(source: Path, target: Path) -> dict[Path, Checkpoint]:
    """The files that a pickled one becomes."""
    parts = {target: open_checkpoint(source)}
    reference = target.with_name(target.name.replace("finetuned", "zeroshot"))
    published = any(source.with_name(f"{reference.stem}{suffix}").exists() for suffix in PICKLED)
    if reference != target and not published:
        with contextlib.suppress(UserError):  # it is not linearized
            parts[reference] = open_reference(source)
    return parts


def _mark(source: Path) -> str:
    """What a conversion remembers of its source."""
    contents = xxhash.xxh3_128()
    with source.open("rb") as file:
        while piece := file.read(PIECE):
            contents.update(piece)
    return f"{source.name} {contents.hexdigest()}"
