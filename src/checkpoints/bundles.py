"""Bundles: a folder from which the models of several tasks are rebuilt (`output_kind=bundle`)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.reading import Checkpoint, metadata_of, open_files
from src.checkpoints.shards import BUNDLED
from src.checkpoints.writing import IN_FOLDER, save_file
from src.compact.form import ENTRY, LEFT, MASK, OFFSET, RIGHT, SCALE, Compact, kind_and_key, parts_of
from src.compact.packing import packed_size
from src.compact.quantisation import CODES
from src.elementwise import add_vector, as_complex, as_real
from src.errors import UserError, shorten
from src.runtime.files import folder_beside, require_space
from src.runtime.untrusted import parse_json
from src.state_dict import StateDict, byte_size, is_like, outline, vector_outline

PRETRAINED, SHARED, TASKS = BUNDLE_FILES = ("pretrained.safetensors", "shared.safetensors", BUNDLED)


def save_bundle(compact: Compact, pretrained: StateDict, folder: Path, facts: Mapping[str, object]) -> int:
    """Write all that the tasks' models are rebuilt from as one folder; return the bytes it takes on disk.

    `pretrained.safetensors` is the model they start from, `shared.safetensors` the vector that masks select from or offsets
    are added to (if there is one), and `tasks.safetensors` holds each task's part, with `facts` in its header.
    """
    require_space(folder.parent, bundle_size(compact, pretrained))
    with folder_beside(folder) as draft:
        save_file(pretrained, draft / PRETRAINED, IN_FOLDER)
        if compact.shared:
            save_file(compact.shared, draft / SHARED, IN_FOLDER)
        save_file(compact.flattened(), draft / TASKS, {"kind": "bundle", "facts": json.dumps(facts), **IN_FOLDER})
    return sum(file.stat().st_size for file in folder.iterdir())


def bundle_size(compact: Compact, pretrained: StateDict) -> int:
    """Return the bytes of a bundle's entries; on disk it takes some thousand more for names and shapes."""
    return sum(map(byte_size, (pretrained, compact.shared, compact.flattened())))


def open_bundle(folder: str | os.PathLike) -> tuple[Compact, dict]:
    """Return the compact form of a bundle's task vectors, and the facts it was written with.

    Raise UserError if `folder` is no bundle, or if its files do not fit one another.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no bundle at {folder}; check the path")
    facts = facts_of_file(folder / TASKS)
    parts = parts_of(open_files(folder / TASKS), list(facts["finetuned"]))
    uses_shared = any(name.removeprefix(CODES).startswith((MASK, OFFSET)) for part in parts.values() for name in outline(part))
    missing = [name for name in [PRETRAINED] + [SHARED] * uses_shared if not (folder / name).exists()]
    if missing:
        raise UserError(f"the bundle {folder} lacks {' and '.join(missing)}; copy the whole folder again")
    shared = open_files(folder / SHARED) if uses_shared else {}
    compact = Compact(vector_outline(as_real(open_files(folder / PRETRAINED))), parts, shared)
    unfit = [*unfit_entries(compact), *_unfit_shared(compact)]
    if unfit:
        raise UserError(
            f"the files of the bundle {folder} do not fit one another ({shorten(unfit)}); copy the whole folder again"
        )
    return compact, facts


def facts_of_file(file: Path) -> dict:
    """Return the facts in the header of a mask file or of a bundle's tasks. Raise UserError if it is no such file."""
    text = metadata_of(file).get("facts")
    if text is None and file.suffix == ".safetensors" and file.is_file():
        open_files(file)  # which says so where a file is damaged
    facts = {} if text is None else parse_json(text, f"the header of {file}")
    if not isinstance(facts, dict) or not isinstance(facts.get("finetuned"), dict):
        raise UserError(f"{file} is neither a mask file nor a bundle of this program (its header names no tasks); check the path")
    return facts


def unfit_entries(compact: Compact) -> list[str]:
    """Return the entries of a compact form, `TASK/NAME`, from which none of its vector's entries can be made."""
    return [
        f"{task}/{name}"
        for task, part in compact.decoded.parts.items()
        for name, leaf in outline(part).items()
        if not _fits(name, leaf, outline(part), compact.outline)
    ]


def _fits(name: str, leaf: Tensor, part: StateDict, shapes: StateDict) -> bool:
    if name == SCALE:
        return leaf.ndim == 0 and leaf.is_floating_point()
    kind, key = kind_and_key(name)
    if key not in shapes:
        return False
    if kind == MASK:
        return leaf.dtype == torch.uint8 and leaf.shape == (packed_size(shapes[key].numel()),)
    if kind in (LEFT, RIGHT) and LEFT + key in part and RIGHT + key in part:
        left, right = part[LEFT + key], part[RIGHT + key]
        is_product = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0] and left.dtype == right.dtype
        return is_product and is_like(torch.empty(left.shape[0], right.shape[1], dtype=left.dtype, device="meta"), shapes[key])
    return kind in (ENTRY, OFFSET) and is_like(leaf, shapes[key])


def _unfit_shared(compact: Compact) -> list[str]:
    """Return the entries of the shared vector that are none of the model's, and those that parts use and it lacks."""
    shared, shapes = outline(compact.decoded.shared), compact.outline
    names = (kind_and_key(name) for part in compact.decoded.parts.values() for name in outline(part))
    used = dict.fromkeys(key for kind, key in names if kind in (MASK, OFFSET))
    unfit = [key for key, leaf in shared.items() if key not in shapes or not is_like(leaf, shapes[key])]
    return [*unfit, *(key for key in used if key not in shared)]


def is_bundled_task(path: Path) -> bool:
    """Whether a path that does not exist is `BUNDLE/TASK`, of a folder that is a bundle."""
    folder = path.parent
    is_bundle = "facts" in metadata_of(folder / TASKS) or all((folder / name).is_file() for name in (PRETRAINED, TASKS))
    return not path.exists() and path.name not in BUNDLE_FILES and is_bundle


def open_bundled_task(path: Path) -> Checkpoint:
    """Return the model of one task, `BUNDLE/TASK`, rebuilt an entry at a time. Raise UserError if the bundle has no such task."""
    folder, task = path.parent, path.name
    compact, _ = open_bundle(folder)
    if task not in compact.parts:
        raise UserError(f"{folder} is a bundle of {', '.join(compact.parts)}, and has no {task}")
    pretrained = open_files(folder / PRETRAINED)
    model = add_vector(pretrained, as_complex(compact.vector(task), pretrained))
    others = {folder / name: {} for name in (PRETRAINED, SHARED) if (folder / name).exists()}
    return Checkpoint(path, {folder / TASKS: model, **others})
