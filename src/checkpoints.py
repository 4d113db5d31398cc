"""State dicts on disk, read lazily through memory maps: opening twenty costs no memory until one is looked at."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import safetensors
from torch import Tensor

from src.compact import MASK, Compact, parts_of
from src.errors import UserError, raise_any
from src.old_formats.linearized import REFERENCE
from src.old_formats.weights import read_weights
from src.state_dict import StateDict, added, moves_of, outline

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"
STARTING, SHARED, TASKS = "pretrained.safetensors", "shared.safetensors", "tasks.safetensors"  # the files of a bundle


class Checkpoint(Mapping[str, Tensor]):
    """The entries of one or more files; reading an entry maps it, and copies nothing until it is computed with.

    files: the weight files; shard_of: the name of the file that holds each key, in the order of the files.
    """

    def __init__(self, path: Path, shards: dict[Path, Mapping[str, Tensor]]):
        self.path, self.made_with = path, ""
        self.files = list(shards)
        self.shard_of = {key: file.name for file, entries in shards.items() for key in entries}
        self._entries = {key: entries for entries in shards.values() for key in entries}

    def __getitem__(self, key: str) -> Tensor:
        return self._entries[key][key].detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @cached_property
    def outline(self) -> StateDict:
        """Shapes and dtypes, without rebuilding what a bundle holds in compact form."""
        return {key: outline(entries)[key].detach() for key, entries in self._entries.items()}

    def renamed(self, entries: Mapping[str, Tensor], made_with: str) -> "Checkpoint":
        """The same files, whose contents are looked at as `entries`; made_with: a digest of what else those are made of."""
        first, *others = self.files
        found = Checkpoint(self.path, {first: entries, **{file: {} for file in others}})
        found.made_with = made_with
        return found

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} entries)"


class _Mapped(Mapping[str, Tensor]):
    """One safetensors file; an entry is a view into the mapped file."""

    def __init__(self, path: Path):
        self._file = safetensors.safe_open(str(path), framework="pt")
        self._keys = dict.fromkeys(self._file.keys())

    def __getitem__(self, key: str) -> Tensor:
        return self._file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """A checkpoint from a `.safetensors` or `.pt` file, an index json, or a folder that holds either; `BUNDLE/TASK` is the
    model of a task, rebuilt from a bundle an entry at a time.

    Modules that were saved whole are read as their state dicts, linearized checkpoints as what was fine-tuned (see
    `open_reference`). Raises UserError if a file is missing, truncated, or asks for anything but tensors and modules;
    nothing in a file is executed.
    """
    path = Path(path)
    if not path.exists() and path.name not in (STARTING, SHARED, TASKS) and "facts" in metadata_of(path.parent / TASKS):
        return _rebuilt(path)
    if not path.exists():
        raise UserError(f"there is no checkpoint at {path}; check the path (relative paths start at {Path.cwd()})")
    target = _in_folder(path) if path.is_dir() else path
    files = _indexed(target) if target.name.endswith(INDEX) else [target]
    return Checkpoint(path, {file: _open_file(file) for file in files})


def open_reference(path: str | os.PathLike) -> Checkpoint:
    """The model that a linearized `.pt` checkpoint is linear around, which its file holds beside the fine-tuned one.

    Raises UserError if the file is no such checkpoint.
    """
    path = Path(path)
    if path.suffix not in PICKLED or not path.is_file():
        raise UserError(f"{path} is no linearized checkpoint of the tangent line (a .pt file), so it holds no reference")
    return Checkpoint(path, {path: read_weights(path, REFERENCE)})


def open_all(paths: Mapping[str, str | os.PathLike]) -> dict[str, Checkpoint]:
    """Checkpoints by name. Raises UserError with the problems of all that cannot be opened."""
    opened, problems = {}, []
    for name, path in paths.items():
        try:
            opened[name] = open_checkpoint(path)
        except UserError as reason:
            problems += reason.problems
    raise_any(problems)
    return opened


def open_compact(folder: str | os.PathLike) -> tuple[Compact, dict]:
    """What a bundle's task vectors are rebuilt from, and the facts it was written with (see `saving.save_bundle`).

    Raises UserError if `folder` is no bundle.
    """
    folder = Path(folder)
    told = facts_in(folder / TASKS)
    parts = parts_of(open_checkpoint(folder / TASKS), list(told["finetuned"]))
    masked = any(name.startswith(MASK) for part in parts.values() for name in outline(part))
    names = [STARTING] + [SHARED] * masked
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(f"the bundle {folder} lacks {' and '.join(missing)}; copy the whole folder again")
    start, shared = open_checkpoint(folder / STARTING), open_checkpoint(folder / SHARED) if masked else {}
    return Compact(moves_of(start), parts, shared), told


def facts_in(file: Path) -> dict:
    """What a file of masks or of a bundle says it is of. Raises UserError if it is no such file."""
    try:
        facts = json.loads(metadata_of(file)["facts"])
        if not isinstance(facts["finetuned"], dict):
            raise TypeError("finetuned is no table of tasks")
    except (KeyError, TypeError, ValueError) as reason:
        raise UserError(f"{file} is no file of masks, and of no bundle, that this program wrote ({reason!r})") from reason
    return facts


def _rebuilt(path: Path) -> Checkpoint:
    folder, task = path.parent, path.name
    compact, _ = open_compact(folder)
    if task not in compact.parts:
        raise UserError(f"{folder} is a bundle of {', '.join(compact.parts)}, and has no {task}")
    model = added(open_checkpoint(folder / STARTING), compact.vector(task))
    others = {folder / name: {} for name in (STARTING, SHARED) if (folder / name).exists()}
    return Checkpoint(path, {folder / TASKS: model, **others})


def _in_folder(folder: Path) -> Path:
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for kind, usual in (((".safetensors",), "model.safetensors"), (PICKLED, "pytorch_model.bin")):
        endings = tuple(f"{suffix}{INDEX}" for suffix in kind)
        indices = [file for file in files if file.name.endswith(endings)]
        if indices:
            return indices[0]
        weights = [file for file in files if file.suffix in kind]
        if len(weights) == 1 or folder / usual in weights:
            return weights[0] if len(weights) == 1 else folder / usual
        if weights:
            names = ", ".join(file.name for file in weights[:4])
            raise UserError(f"{folder} holds several weight files ({names}) and no *{INDEX}; name the file you mean")
    raise UserError(f"{folder} holds no .safetensors or {'/'.join(PICKLED)} file and no *{INDEX}")


def _indexed(index: Path) -> list[Path]:
    try:
        names = dict.fromkeys(json.loads(index.read_text())["weight_map"].values())
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a shard's name is no text")
    except (ValueError, KeyError, AttributeError, TypeError) as reason:
        raise UserError(f"{index} is not an index of shards (a json object with a weight_map): {reason!r}") from reason
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index} names shards that are not beside it: {', '.join(missing)}; fetch them and try again")
    return [index.parent / name for name in names]


def _open_file(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return _Mapped(path)
        except (safetensors.SafetensorError, OSError) as reason:
            said = f"{path} cannot be read as safetensors ({reason}): it is truncated or no such file; copy or download it again"
            raise UserError(said) from reason
    if path.suffix not in PICKLED:
        raise UserError(f"{path} is neither .safetensors nor one of {', '.join(PICKLED)}")
    return read_weights(path)


def metadata_of(path: Path) -> dict[str, str]:
    """The header's strings of a safetensors file; empty for any other file, and for one that cannot be read."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}
