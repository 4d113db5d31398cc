"""Which files a model's weights are in: one, or the shards that an index names key by key."""

import os
from collections.abc import Container, Mapping
from pathlib import Path

from src.errors import UserError, raise_any, shorten
from src.runtime.untrusted import read_json

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"
BUNDLED = "tasks.safetensors"  # of a bundle: all tasks' masks or factors
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # of an adapter, in a folder of its own
FORMATS = (((".safetensors",), "model.safetensors"), (PICKLED, "pytorch_model.bin"))  # endings, and the Hub's name


def split_part(path: Path) -> tuple[Path, str]:
    """Return the path and the part of `PATH@PART`, one of several models in a file; "" for the part of any other path."""
    name, at, part = path.name.rpartition("@")
    is_part = bool(at and name) and not path.exists() and path.with_name(name).exists()
    return (path.with_name(name), part) if is_part else (path, "")


def model_file(folder: Path) -> Path:
    """Return the file or index that is a folder's model: the one with the usual name, else the only one.

    Raise UserError if there is none, and if several could be meant, as with `model.fp16.*` beside `model.ema.*`.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    if (folder / BUNDLED).exists():
        raise UserError(f"{folder} is a bundle; name one task's model in it, {folder}/TASK, or {folder}/pretrained.safetensors")
    for endings, usual in FORMATS:
        indices = [file for file in files if file.name.endswith(tuple(f"{suffix}{INDEX}" for suffix in endings))]
        weights = [file for file in files if file.suffix in endings]
        for candidates, name in ((indices, f"{usual}{INDEX}"), (weights, usual)):
            if folder / name in candidates:
                return folder / name
        for candidates, what in ((indices, "indices of shards"), (weights, f"weight files and no *{INDEX}")):
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                names = ", ".join(file.name for file in candidates[:4])
                raise UserError(f"{folder} holds several {what} ({names}) and no {usual}; name the file you mean")
    raise UserError(f"{folder} holds no .safetensors or {'/'.join(PICKLED)} file and no *{INDEX}")


def index_of(file: Path) -> dict[str, Path]:
    """Return the shard that holds each key, as an index json says.

    Raise UserError if it is no such index, or names files that are not beside it.
    """
    index = read_json(file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(
            f"{file} is not an index of shards (a json object whose weight_map has a file for each name); get it again"
        )
    names = dict.fromkeys(weight_map.values())
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UserError(
            f"{file} names files of other folders ({shorten(outside)}), and shards lie beside their index; nothing "
            "was read. Do not use an index from someone you do not trust"
        )
    missing = [name for name in names if not os.path.isfile(file.parent / name)]
    if missing:
        raise UserError(f"{file} names shards that are not beside it: {shorten(missing, 9)}; fetch them and try again")
    return {key: file.parent / name for key, name in weight_map.items()}


def require_keys(index_file: Path, shards: Mapping[Path, Container[str]], index: Mapping[str, Path]) -> None:
    """Raise UserError with a sentence for each shard that lacks keys which the index says it holds."""
    missing: dict[Path, list[str]] = {}
    for key, shard in index.items():
        if key not in shards[shard]:
            missing.setdefault(shard, []).append(key)
    raise_any(
        f"{shard} lacks {shorten(keys)}, which {index_file.name} says it holds: one of the two is of "
        "another model; fetch both again"
        for shard, keys in missing.items()
    )
