"""Bundles: a folder from which the models of several tasks are rebuilt (`output_kind=bundle`)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from src.checkpoints.reading import Checkpoint, metadata_of, open_files
from src.checkpoints.writing import save_file
from src.compact import MASK, Compact, parts_of
from src.elementwise import add_vector, as_complex, as_real
from src.errors import UserError
from src.runtime.files import folder_beside, require_space
from src.state_dict import StateDict, byte_size, outline, vector_outline

PRETRAINED, SHARED, TASKS = BUNDLE_FILES = ("pretrained.safetensors", "shared.safetensors", "tasks.safetensors")


def save_bundle(compact: Compact, pretrained: StateDict, folder: Path, facts: Mapping[str, object]) -> int:
    """Write all that the tasks' models are rebuilt from as one folder; return the bytes it takes on disk.

    `pretrained.safetensors` is the model they start from, `shared.safetensors` the vector that masks select from (if
    there is one), and `tasks.safetensors` holds each task's masks or factors, with `facts` in its header.
    """
    require_space(folder.parent, bundle_size(compact, pretrained))
    with folder_beside(folder) as draft:
        save_file(pretrained, draft / PRETRAINED)
        if compact.shared:
            save_file(compact.shared, draft / SHARED)
        save_file(compact.flattened(), draft / TASKS, {"kind": "bundle", "facts": json.dumps(facts)})
    return sum(file.stat().st_size for file in folder.iterdir())


def bundle_size(compact: Compact, pretrained: StateDict) -> int:
    """Return the bytes of a bundle's entries; on disk it takes some thousand more for names and shapes."""
    return sum(map(byte_size, (pretrained, compact.shared, compact.flattened())))


def open_bundle(folder: str | os.PathLike) -> tuple[Compact, dict]:
    """Return the compact form of a bundle's task vectors, and the facts it was written with.

    Raise UserError if `folder` is no bundle.
    """
    folder = Path(folder)
    facts = facts_of_file(folder / TASKS)
    parts = parts_of(open_files(folder / TASKS), list(facts["finetuned"]))
    is_masked = any(name.startswith(MASK) for part in parts.values() for name in outline(part))
    missing = [name for name in [PRETRAINED] + [SHARED] * is_masked if not (folder / name).exists()]
    if missing:
        raise UserError(f"the bundle {folder} lacks {' and '.join(missing)}; copy the whole folder again")
    shared = open_files(folder / SHARED) if is_masked else {}
    return Compact(vector_outline(as_real(open_files(folder / PRETRAINED))), parts, shared), facts


def facts_of_file(file: Path) -> dict:
    """Return the facts in the header of a mask file or of a bundle's tasks. Raise UserError if it is no such file."""
    try:
        facts = json.loads(metadata_of(file)["facts"])
        if not isinstance(facts["finetuned"], dict):
            raise TypeError("finetuned is no table of tasks")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no file of masks, and of no bundle, that this program wrote ({error!r})") from error
    return facts


def is_bundled_task(path: Path) -> bool:
    """Whether a path that does not exist is `BUNDLE/TASK`, of a folder that is a bundle."""
    return not path.exists() and path.name not in BUNDLE_FILES and "facts" in metadata_of(path.parent / TASKS)


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
