"""Write state dicts of any size as safetensors, one entry in memory at a time."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from src.checkpoints.companions import companions_of, is_copy
from src.checkpoints.reading import NAMES, Checkpoint, metadata_of
from src.checkpoints.shards import ADAPTER, ADAPTER_CONFIG, INDEX, PICKLED
from src.errors import UserError, raise_any, shorten
from src.runtime.files import folder_beside, require_space, written_beside
from src.state_dict import Lazy, StateDict, byte_size, outline

MARK = {"format": "pt", "made_by": "merging"}
METADATA = "__metadata__"  # the key of a header that is no entry
IN_FOLDER = {"written_as": "folder"}  # the mark of files that a folder is made of, and replaced with


def save_file(entries: StateDict, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file and only then give it its name; a failure leaves `path` as it was.

    The safetensors library writes dicts that are wholly in memory; this holds one entry at a time.

    Raise UserError for a dtype that the format lacks, and if the disk has not enough space.
    """
    shapes = outline(entries)
    unknown = [f"{key} is {leaf.dtype}" for key, leaf in shapes.items() if leaf.dtype not in NAMES]
    if unknown:
        raise UserError(f"{path} cannot be written: safetensors has no such dtypes ({shorten(unknown)}); cast them first")
    if METADATA in shapes:
        raise UserError(f"{path} cannot be written: safetensors has no entries called {METADATA}; rename it first")
    header: dict[str, object] = {METADATA: {**MARK, **(metadata or {})}}
    offset = 0
    for key, leaf in shapes.items():
        end = offset + leaf.numel() * leaf.element_size()
        header[key] = {"dtype": NAMES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    require_space(path.parent, offset + len(encoded) + 8)
    with written_beside(path) as draft, draft.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for key, leaf in shapes.items():
            values = entries[key].detach().to(device="cpu", dtype=leaf.dtype).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def save_folder(entries: StateDict, folder: Path, like: StateDict, metadata: Mapping[str, str] | None = None) -> None:
    """Write `entries` as a folder; if `like` is a sharded checkpoint, with its shards and an index.

    What lies beside the original weights (configuration, tokenizer) comes along, so that a model stays loadable.
    """
    is_sharded = isinstance(like, Checkpoint) and len(set(like.shard_of.values())) > 1
    shards: dict[str, dict] = {}
    for key, leaf in outline(entries).items():
        name = f"{Path(like.shard_of[key]).stem}.safetensors" if is_sharded else "model.safetensors"
        shards.setdefault(name, {})[key] = leaf
    companions = companions_of(like.folder, like.files) if isinstance(like, Checkpoint) and like.folder else None
    require_space(folder.parent, byte_size(entries) + (companions.size if companions else 0))
    with folder_beside(folder) as draft:
        for name, shard in shards.items():
            save_file(Lazy(shard, entries.__getitem__), draft / name, {**(metadata or {}), **IN_FOLDER})
        if companions:
            companions.copy_to(draft)
        if is_sharded:
            weight_map = {key: name for name, shard in shards.items() for key in shard}
            index = {"metadata": {"total_size": byte_size(entries)}, "weight_map": weight_map}
            (draft / f"model.safetensors{INDEX}").write_text(json.dumps(index, indent=2))


def save_by_task(models: Mapping[str, StateDict], folder: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write each task's model as `<folder>/<task>.safetensors`; all of them appear together."""
    require_space(folder.parent, sum(map(byte_size, models.values())))
    with folder_beside(folder) as draft:
        for task, entries in models.items():
            save_file(entries, draft / f"{task}.safetensors", {**(metadata or {}), **IN_FOLDER})


def check_target(path: Path, as_folder: bool, inputs: Iterable[Path], size: int) -> None:
    """Raise UserError, before any work, if writing `size` bytes to `path` would fail or destroy what is not ours.

    An input is never overwritten; a file or folder is replaced only if it is an earlier result, and nothing else.
    """
    target, problems, inputs = path.resolve(), [], list(inputs)
    for source in {file.resolve() for file in inputs}:
        is_within = source in target.parents and (as_folder or source.is_dir())  # where it may be taken for the input's
        if source == target or is_within or (as_folder and target in source.parents):
            problems.append(f"output={path} would overwrite an input, {source}; choose another path")
    if path.suffix in PICKLED:
        problems.append(f"output={path}: models are written as safetensors; end it in .safetensors, or name a folder")
    elif target.is_dir() and not as_folder:
        problems.append(f"output={path} is a folder, and its name asks for one file; choose another name")
    elif target.is_dir():
        files = sorted(file for file in target.rglob("*") if not file.is_dir())
        others = [str(file.relative_to(target)) for file in files if not _is_replaceable(file, target, inputs)]
        if others or (any(target.iterdir()) and not any(file.suffix == ".safetensors" for file in target.iterdir())):
            examples = ", ".join(others[:3]) or "no earlier result"
            problems.append(f"output={path} holds other files ({examples}); choose an output folder of its own")
    elif target.exists() and as_folder:
        problems.append(f"output={path} is a file, and a folder is to be written; choose another name")
    elif target.exists() and not problems and not _is_result(target):
        problems.append(
            f"output={path} is there and was not written as an output of this program; choose another name, or move that file "
            "away"
        )
    raise_any(problems)
    require_space(target.parent, size)


def _is_replaceable(file: Path, folder: Path, inputs: list[Path]) -> bool:
    """Whether a file in an output folder is one of ours: written by us, or the copy of a file beside an input's weights."""
    if not file.is_file():
        return False
    if file.suffix == ".safetensors" and file.parent == folder:
        return _is_result(file) and metadata_of(file).items() >= IN_FOLDER.items()
    settings = folder / ADAPTER_CONFIG
    is_ours = file == folder / f"model.safetensors{INDEX}" or (file == settings and (folder / ADAPTER).exists())
    return is_ours or is_copy(file, folder, inputs)


def _is_result(file: Path) -> bool:
    """Whether a file is an output of this program, and no fine-tuned, converted or foreign weights."""
    metadata = metadata_of(file)
    return metadata.get("made_by") == MARK["made_by"] and not metadata.keys() & {"made_from", "converted_from"}
