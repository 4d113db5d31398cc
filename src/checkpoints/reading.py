"""State dicts on disk, read lazily through memory maps: opening twenty costs no memory until an entry is read."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import safetensors
from torch import Tensor

from src.checkpoints.shards import ADAPTER, INDEX, PICKLED, index_of, model_file, require_keys
from src.errors import UserError
from src.pickles.state_dicts import read_state_dict, read_tangent_pair
from src.runtime.untrusted import open_regular
from src.state_dict import StateDict, outline


class Checkpoint(Mapping[str, Tensor]):
    """A state dict read from one or more files; reading an entry maps it and copies nothing.

    path: what was opened.
    files: the weight files.
    shard_of: the name of the file that holds each key.
    base_digest: of the model that entries which the files lack are taken from (see `view`); else empty.
    """

    def __init__(self, path: Path, shards: Mapping[Path, StateDict], index: Mapping[str, Path] | None = None):
        """shards: the entries of each file; index: the file that each key is read from, by default all of all files."""
        index = {key: file for file, entries in shards.items() for key in entries} if index is None else index
        self.path, self.files = path, list(shards)
        self.shard_of = {key: file.name for key, file in index.items()}
        self.base_digest = ""
        self._entries = {key: shards[file] for key, file in index.items()}

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

    def view(self, entries: StateDict, base_digest: str) -> "Checkpoint":
        """Return a checkpoint of the same files whose contents are seen as `entries`.

        base_digest: of the model that entries which the files lack are taken from.
        """
        first, *others = self.files
        checkpoint = Checkpoint(self.path, {first: entries, **{file: {} for file in others}})
        checkpoint.base_digest = base_digest
        return checkpoint

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} entries)"


class SafetensorsFile(Mapping[str, Tensor]):
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


def open_files(path: Path) -> Checkpoint:
    """Return the checkpoint in a weight file, in the shards of an index json, or in a folder that holds either.

    Modules that were saved whole are read as their state dicts, linearized checkpoints as what was fine-tuned (see
    `open_tangent_pair`). Nothing in a file is executed.

    Raise UserError if a file is missing, truncated, or asks for anything but tensors and modules.
    """
    if not path.exists():
        raise UserError(f"there is no checkpoint at {path}; check the path (relative paths start at {Path.cwd()})")
    file = model_file(path) if path.is_dir() else path
    if not file.name.endswith(INDEX):
        return Checkpoint(path, {file: _open_file(file)})
    index = index_of(file)
    shards = {shard: _open_file(shard) for shard in dict.fromkeys(index.values())}
    require_keys(file, shards, index)
    return Checkpoint(path, shards, index)


def open_tangent_pair(path: Path) -> tuple[Checkpoint, Checkpoint | None]:
    """Return a pickled checkpoint, and the model it is linear around, which a linearized one holds beside the fine-tuned one.

    Read the file's names once for both. Raise UserError as `open_files` does.
    """
    finetuned, reference = read_tangent_pair(path)
    return Checkpoint(path, {path: finetuned}), None if reference is None else Checkpoint(path, {path: reference})


def metadata_of(path: Path) -> dict[str, str]:
    """Return the strings in the header of a safetensors file, or of an adapter's in its folder; {} for any other file."""
    if (path / ADAPTER).is_file():
        path = path / ADAPTER
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}


def _open_file(path: Path) -> StateDict:
    if path.suffix == ".safetensors":
        try:
            open_regular(path).close()  # safetensors waits for what it opens
            return SafetensorsFile(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}): it is truncated or no such file; copy or download it again"
            ) from error
    if path.suffix not in PICKLED:
        raise UserError(f"{path} is neither .safetensors nor one of {', '.join(PICKLED)}")
    return read_state_dict(path)
