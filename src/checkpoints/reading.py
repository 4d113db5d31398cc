"""State dicts on disk, read lazily through memory maps: opening twenty costs no memory until an entry is read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate
from operator import mul
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from src.checkpoints.companions import weights_in_subfolders
from src.checkpoints.factors import AdapterChanges
from src.checkpoints.formats import Format, format_of
from src.checkpoints.shards import ADAPTER, INDEX, index_of, model_file, require_keys, split_part
from src.errors import UserError, shorten
from src.pickles.state_dicts import Contents, read_contents
from src.state_dict import StateDict, outline, renamed

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in NAMES.items()}


class Checkpoint(Mapping[str, Tensor]):
    """A state dict read from one or more files; reading an entry maps it and copies nothing.

    path: what was opened.
    files: the weight files.
    shard_of: the name of the file that holds each key.
    base_digest: of the model that entries which the files lack are taken from (see `view`); else empty.
    notes: sentences on how the files were read where they leave a choice.
    adapter: what an adapter changes of that model; None of a whole model.
    """

    adapter: AdapterChanges | None = None

    def __init__(
        self, path: Path, shards: Mapping[Path, StateDict], index: Mapping[str, Path] | None = None, notes: Sequence[str] = ()
    ):
        """shards: the entries of each file; index: the file that each key is read from, by default all of all files."""
        index = {key: file for file, entries in shards.items() for key in entries} if index is None else index
        self.path, self.files = path, list(shards)
        self.shard_of = {key: file.name for key, file in index.items()}
        self.base_digest, self.notes = "", list(notes)
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

    @property
    def folder(self) -> Path | None:
        """The folder that holds the model: of a folder, an index of shards, or a part of either; None of a single file."""
        path, _ = split_part(self.path)
        return path if path.is_dir() else path.parent if path.name.endswith(INDEX) else None

    def view(self, entries: StateDict, base_digest: str, notes: Sequence[str] = ()) -> "Checkpoint":
        """Return a checkpoint of the same files whose contents are seen as `entries`.

        base_digest: of the model that entries which the files lack are taken from.
        notes: further ones.
        """
        first, *others = self.files
        checkpoint = Checkpoint(self.path, {first: entries, **{file: {} for file in others}}, notes=[*self.notes, *notes])
        checkpoint.base_digest = base_digest
        return checkpoint

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} entries)"


class SafetensorsFile(Mapping[str, Tensor]):
    """One safetensors file; an entry is a view into the mapped file.

    The library checks the header; its own views take thirty times as long to make, which thousands of small entries feel.
    """

    def __init__(self, path: Path):
        self._file = safetensors.safe_open(str(path), framework="pt")
        self._keys = dict.fromkeys(self._file.keys())
        self._places = _places(path)
        size = path.stat().st_size
        mapped = torch.UntypedStorage.from_file(str(path), False, size) if self._places else torch.UntypedStorage()
        self._flat = {dtype: torch.empty(0, dtype=dtype).set_(mapped, 0, (size // dtype.itemsize,))
                      for dtype in {place[0] for place in self._places.values()}}  # fmt: skip

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._places:
            return self._file.get_tensor(key)
        dtype, offset, shape, stride = self._places[key]
        return self._flat[dtype].as_strided(shape, stride, offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys


def open_files(path: Path) -> Checkpoint:
    """Return the checkpoint in a weight file, in the shards of an index json, or in a folder that holds either.

    Modules that were saved whole are read as their state dicts, linearized checkpoints as what was fine-tuned (see
    `open_tangent_pair`). `PATH@PART` is one of several models in a file. Nothing in a file is executed.

    Raise UserError if a file is missing, truncated, or asks for anything but tensors and modules.
    """
    named, part = split_part(path)
    if not named.exists():
        raise UserError(f"there is no checkpoint at {path}; check the path (relative paths start at {Path.cwd()})")
    file = model_file(named) if named.is_dir() else named
    if not file.name.endswith(INDEX):
        contents = contents_of(file, part)
        entries = contents.entries if contents.part or not part else _below(path, contents.entries, f"{part}.")
        return Checkpoint(path, {file: entries}, notes=[*([] if part else _notes(file, contents)), *_notes_on_folder(named)])
    index = index_of(file)
    contents = {shard: contents_of(shard) for shard in dict.fromkeys(index.values())}
    shards = {shard: each.entries for shard, each in contents.items()}
    require_keys(file, shards, index)
    notes = [note for shard, each in contents.items() for note in _notes(shard, each)]
    if unnamed := [key for entries in shards.values() for key in entries if key not in index]:
        notes.append(f"{file} names no {shorten(unnamed)}, which its shards hold: left out")
    checkpoint = Checkpoint(path, shards, index, [*notes, *_notes_on_folder(named)])
    return checkpoint.view(_below(path, checkpoint, f"{part}."), "") if part else checkpoint


def contents_of(path: Path, part: str = "") -> Contents:
    """Return the contents of one weight file, of the format that its first bytes show, and of a part of it if one is named.

    Raise UserError as `open_files` does.
    """
    if format_of(path) is Format.TORCH:
        return read_contents(path, part)
    try:
        return Contents(SafetensorsFile(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): it is truncated; copy or download it again") from error
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be mapped ({error}): it is too large for this machine; check that it is the right file"
        ) from error


def open_tangent_pair(path: Path) -> tuple[Checkpoint, Checkpoint | None]:
    """Return a checkpoint, and the model it is linear around, which a linearized one holds beside the fine-tuned one.

    Read the file's names once for both. Raise UserError as `open_files` does.
    """
    contents = contents_of(path)
    reference = None if contents.reference is None else Checkpoint(path, {path: contents.reference})
    return Checkpoint(path, {path: contents.entries}), reference


def metadata_of(path: Path) -> dict[str, str]:
    """Return the strings in the header of a safetensors file, or of an adapter's in its folder; {} for any other file."""
    if (path / ADAPTER).is_file():
        path = path / ADAPTER
    return metadata_of_file(path) if path.suffix == ".safetensors" and path.is_file() else {}


def metadata_of_file(path: Path) -> dict[str, str]:
    """Return the strings in the header of a safetensors file, whatever it is called; {} for any other file."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError, RuntimeError):  # the last of a file too large to map
        return {}


def _places(path: Path) -> dict[str, tuple[torch.dtype, int, list[int], tuple[int, ...]]]:
    """Return the dtype, the offset in elements of it, the shape and the strides of each entry of a safetensors file.

    Those are left out that are not aligned, or of a dtype that is not written here: the library reads them.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    places = {}
    for key, entry in header.items():
        dtype = DTYPES.get(entry["dtype"]) if key != "__metadata__" else None
        if dtype is not None and entry["data_offsets"][0] < entry["data_offsets"][1]:
            offset, rest = divmod(8 + length + entry["data_offsets"][0], dtype.itemsize)
            if not rest:
                places[key] = dtype, offset, entry["shape"], _strides(tuple(entry["shape"]))
    return places


@cache
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def _below(path: Path, entries: StateDict, prefix: str) -> StateDict:
    """Return the entries whose names begin with `prefix`, without it. Raise UserError if there are none."""
    names = {key.removeprefix(prefix): key for key in entries if key.startswith(prefix)}
    if not names:
        raise UserError(f"{path}: no names begin with {prefix} there; they are {shorten(list(entries))}")
    return renamed(entries, names)


def _notes(file: Path, contents: Contents) -> list[str]:
    """Return a sentence where a file holds other models beside the one that was read."""
    if not contents.others:
        return []
    others = shorten([f"{file}@{name}" for name in contents.others], 6)
    return [f"{file} holds several models: {contents.part} is read; to read another, give {others}"]


def _notes_on_folder(path: Path) -> list[str]:
    """Return a sentence where a folder has more weights in sub-folders."""
    names = weights_in_subfolders(path) if path.is_dir() else []
    return [f"{path}: not merged are the weights in its sub-folders, {shorten(names)}"] if names else []
