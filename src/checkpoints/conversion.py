"""Pickled checkpoints and heads converted to safetensors, so that a pickle is read only once."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import xxhash

from src.checkpoints.reading import Checkpoint, contents_of, metadata_of, metadata_of_file, open_files
from src.checkpoints.shards import INDEX, PICKLED, index_of
from src.checkpoints.writing import save_file
from src.errors import UserError, shorten
from src.pickles.archives import check_contents, unread_members
from src.pickles.state_dicts import Contents, SeveralModels
from src.runtime.files import hash_file, write_json
from src.runtime.untrusted import read_json
from src.state_dict import StateDict, byte_size, digest

# What the metadata of a conversion say of its source.
SOURCE = "converted_from"  # name and digest
STATE = "converted_at"  # name, size and time of change
BESIDE = "converted_beside"  # the name of the other file that it became, or nothing
FACTS = "converted_with"  # the numbers and texts beside the weights
INDICES = re.compile(r"\.index(\.\w+)?\.json$")  # of shards, those of variants (`.index.fp16.json`) included
SHARD = re.compile(r"-\d{5}-of-\d{5}(\.\w+)?\.\w+$")
USUAL = {"pytorch_model": "model"}  # beginnings of the Hub's names of pickles, and of safetensors


def pickled_models(folder: Path) -> list[Path]:
    """Return the models to convert in a folder and below it, by name: weight files, and indices of shards.

    Masks are left out: published ones do not say which checkpoints they are of, and ours have to.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()
             and not any(part.startswith(".") for part in path.relative_to(folder).parts)]  # fmt: skip
    indices = [path for path in files if path.name.endswith(tuple(f"{suffix}{INDEX}" for suffix in PICKLED))]
    shards = {file for path in files if INDICES.search(path.name) for file in _shards(path)}
    single = [path for path in files if path.suffix in PICKLED and not path.name.startswith("TALL_mask") and path not in shards]
    return sorted([*indices, *single])


def converted_path(source: Path, folder: Path) -> Path:
    """Return where the conversion of a model is written in a folder: under the name that libraries look for."""
    is_index = source.name.endswith(INDEX)
    stem = Path(source.name.removesuffix(INDEX)).stem
    usual = next((new + stem.removeprefix(old) for old, new in USUAL.items() if stem.startswith(old)), stem)
    return folder / f"{usual}.safetensors{INDEX if is_index else ''}"


def files_of(source: Path) -> list[Path]:
    """Return the files of a model, the index of shards last. Raise UserError if shards are missing."""
    return [*dict.fromkeys(index_of(source).values()), source] if source.name.endswith(INDEX) else [source]


def convert(source: Path, target: Path) -> list[Path]:
    """Write the conversion of `source` to `target`; return the files written, none if they are there already.

    Of an index, all shards are converted before the index is written. Beside that of a linearized checkpoint, write the
    model that it is linearized around, as a zero-shot checkpoint. A source whose size and time of change are those it was
    converted at is not read again.

    Raise UserError if the source cannot be read, or if `target` is there and was not made from it.
    """
    if not source.name.endswith(INDEX):
        return _convert_file(source, target)
    shards = {shard: converted_path(shard, target.parent) for shard in files_of(source)[:-1]}
    written = [path for shard, path in shards.items() for path in _convert_file(shard, path)]
    weight_map = {key: shards[shard].name for key, shard in index_of(source).items()}
    size = sum(byte_size(open_files(path)) for path in shards.values())
    earlier = read_json(source)
    facts = earlier.get("metadata") if isinstance(earlier.get("metadata"), dict) else {}
    index = {**earlier, "metadata": {**facts, "total_size": size}, "weight_map": weight_map}
    if target.exists() and index_of(target) == {key: target.with_name(name) for key, name in weight_map.items()}:
        return written
    if target.exists():
        raise UserError(f"{target} is there and was not made from {source} as it is now; move one of them away")
    write_json(target, index)
    return [*written, target]


def not_converted(source: Path, target: Path) -> list[str]:
    """Return what a model's files hold and their conversions do not, in words; if it is nothing, they may be removed.

    Raise UserError if a file is damaged: damaged bytes would be all that is left, and equal to the bit.
    """
    if not source.name.endswith(INDEX):
        return list(_not_converted(source, target))
    shards = files_of(source)[:-1]
    lacking = [what for shard in shards for what in _not_converted(shard, converted_path(shard, target.parent))]
    index = {key: converted_path(shard, target.parent) for key, shard in index_of(source).items()}
    return [*lacking, *(["its index"] if not target.exists() or index_of(target) != index else [])]


def _shards(index: Path) -> set[Path]:
    """Return the files that are no models of their own: shards that an index names, and those numbered like shards beside it."""
    numbered = {path for path in index.parent.iterdir() if SHARD.search(path.name)}
    try:
        return numbered | set(index_of(index).values())
    except UserError:
        return numbered  # the index is named where it is converted


def _convert_file(source: Path, target: Path) -> list[Path]:
    earlier = metadata_of(target) if target.exists() else {}
    beside = earlier.get(BESIDE)
    if earlier.get(STATE) == _state(source) and beside is not None and (not beside or target.with_name(beside).exists()):
        return []
    identity = _identity(source)
    if target.exists() and earlier.get(SOURCE) != identity:
        raise UserError(f"{target} is there and was not made from {source} as it is now; move one of them away")
    try:
        contents = contents_of(source)
    except SeveralModels as error:
        parts = shorten(error.parts, 6)
        raise UserError(f"{source} is not converted, for it holds several models; give main.py one of them: {parts}") from error
    models = _models(source, target, contents)
    others = [path.name for path in models if path != target]
    metadata = {**metadata_of_file(source), SOURCE: identity, STATE: _state(source), BESIDE: next(iter(others), "")}
    if contents.facts:
        metadata[FACTS] = json.dumps(contents.facts)
    missing = {path: entries for path, entries in models.items() if not path.exists()}
    for path, entries in missing.items():
        save_file(entries, path, metadata)
    return list(missing)


def _not_converted(source: Path, target: Path) -> Iterator[str]:
    """Yield what a file holds and its conversion, and those beside it, do not."""
    check_contents(source)
    contents = contents_of(source)
    yield from contents.leftovers
    yield from unread_members(source)
    for path, entries in _models(source, target, contents).items():
        if not path.exists() or digest(open_files(path).items()) != digest(entries.items()):
            yield f"the weights of {path.name}, which has others"
    own = _own_zeroshot(source, target)
    if contents.reference is not None and own and digest(open_files(own).items()) != digest(contents.reference.items()):
        yield f"the model it is linear around, which is not that of {own.name}"


def _models(source: Path, target: Path, contents: Contents) -> dict[Path, StateDict]:
    """Return what a pickled file is converted to, by path; `target` is written last, so where it is, the other one is."""
    zeroshot = _zeroshot_path(target)
    has_zeroshot = contents.reference is not None and zeroshot != target and not _own_zeroshot(source, target)
    return {**({zeroshot: Checkpoint(source, {source: contents.reference})} if has_zeroshot else {}),
            target: Checkpoint(source, {source: contents.entries})}  # fmt: skip


def _zeroshot_path(target: Path) -> Path:
    return target.with_name(target.name.replace("finetuned", "zeroshot"))


def _own_zeroshot(source: Path, target: Path) -> Path | None:
    """Return the pickled zero-shot checkpoint beside a file, which has a conversion of its own; None if there is none."""
    paths = (source.with_name(f"{_zeroshot_path(target).stem}{suffix}") for suffix in PICKLED)
    return next((path for path in paths if path != source and path.exists()), None)


def _state(source: Path) -> str:
    """Return what shows, without reading a source, that it has not changed."""
    state = source.stat()
    return f"{source.name} {state.st_size} {state.st_mtime_ns}"


def _identity(source: Path) -> str:
    """Return the name and the digest of a source."""
    return f"{source.name} {hash_file(source, xxhash.xxh3_128())}"
