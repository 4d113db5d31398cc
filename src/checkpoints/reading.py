"""State dicts on disk, read lazily through memory maps: opening twenty costs no memory until one is looked at."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import safetensors
from torch import Tensor

from src.checkpoints.shards import ADAPTER, INDEX, PICKLED, in_folder, require_keys, shard_of
from src.compact import MASK, Compact, parts_of
from src.errors import UserError, raise_any
from src.pickles.state_dicts import read_both, read_weights
from src.state_dict import StateDict, added, moves_of, outline

STARTING, SHARED, TASKS = "pretrained.safetensors", "shared.safetensors", "tasks.safetensors"  # the files of a bundle


class Checkpoint(Mapping[str, Tensor]):
    """The entries of one or more files; reading an entry maps it, and copies nothing until it is computed with.

    files: the weight files; shard_of: the name of the file that holds each key.
    """

    def __init__(self, path: Path, shards: dict[Path, Mapping[str, Tensor]], places: Mapping[str, Path] | None = None):
        """places: the file that each key is read from, where an index says so, and no other key is; else all keys are."""
        places = {key: file for file, entries in shards.items() for key in entries} if places is None else places
        self.path, self.made_with = path, ""
        self.files = list(shards)
        self.shard_of = {key: file.name for key, file in places.items()}
        self._entries = {key: shards[file] for key, file in places.items()}

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

    def __contains__(self, key: object) -> bool:
        return key in self._keys


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """A checkpoint from a `.safetensors` or `.pt` file, an index json, or a folder that holds either; `BUNDLE/TASK` is the
    model of a task, rebuilt from a bundle an entry at a time.

    Modules that were saved whole are read as their state dicts, linearized checkpoints as what was fine-tuned (see
    `open_both`). Raises UserError if a file is missing, truncated, or asks for anything but tensors and modules;
    nothing in a file is executed.
    """
    path = Path(path)
    if not path.exists() and path.name not in (STARTING, SHARED, TASKS) and "facts" in metadata_of(path.parent / TASKS):
        return _rebuilt(path)
    if not path.exists():
        raise UserError(f"there is no checkpoint at {path}; check the path (relative paths start at {Path.cwd()})")
    target = in_folder(path) if path.is_dir() else path
    if not target.name.endswith(INDEX):
        return Checkpoint(path, {target: _open_file(target)})
    places = shard_of(target)
    shards = {file: _open_file(file) for file in dict.fromkeys(places.values())}
    require_keys(target, shards, places)
    return Checkpoint(path, shards, places)


def open_both(path: str | os.PathLike) -> tuple[Checkpoint, Checkpoint | None]:
    """A pickled checkpoint, and the model that it is linear around, which a linearized one holds beside the fine-tuned one.

    Reads the file's names once for both. Raises UserError as `open_checkpoint` does.
    """
    path = Path(path)
    finetuned, reference = read_both(path)
    return Checkpoint(path, {path: finetuned}), None if reference is None else Checkpoint(path, {path: reference})


def open_all(
    paths: Mapping[str, str | os.PathLike], opened_by: Callable[[Path], Checkpoint] = open_checkpoint
) -> dict[str, Checkpoint]:
    """Checkpoints by name. Raises UserError with the problems of all that cannot be opened."""
    opened, problems = {}, []
    for name, path in paths.items():
        try:
            opened[name] = opened_by(Path(path))
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
    """The header's strings of a safetensors file, or of an adapter's in its folder; empty for any other file, and for one that
    cannot be read."""
    if (path / ADAPTER).is_file():
        path = path / ADAPTER
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}
