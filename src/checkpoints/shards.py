"""Which files a model's weights are in: one, or the shards that an index names key by key."""

import json
from pathlib import Path

from src.errors import UserError, raise_any

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"
ADAPTER = "adapter_model.safetensors"  # of a LoRA adapter, in a folder of its own
KINDS = (((".safetensors",), "model.safetensors"), (PICKLED, "pytorch_model.bin"))  # endings, and the name the Hub uses
NAMED = 3  # of many keys, as many as a sentence holds


def in_folder(folder: Path) -> Path:
    """The file or index that is a folder's model: the one with the usual name, else the only one.

    Raises UserError if there is none, and if several could be meant, as with `model.fp16.*` beside `model.ema.*`.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for endings, usual in KINDS:
        indices = [file for file in files if file.name.endswith(tuple(f"{suffix}{INDEX}" for suffix in endings))]
        weights = [file for file in files if file.suffix in endings]
        for found, name in ((indices, f"{usual}{INDEX}"), (weights, usual)):
            if folder / name in found:
                return folder / name
        for found, what in ((indices, "indices of shards"), (weights, f"weight files and no *{INDEX}")):
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(file.name for file in found[:4])
                raise UserError(f"{folder} holds several {what} ({names}) and no {usual}; name the file you mean")
    raise UserError(f"{folder} holds no .safetensors or {'/'.join(PICKLED)} file and no *{INDEX}")


def shard_of(index: Path) -> dict[str, Path]:
    """The shard that holds each key, as an index says; UserError if it names files that are not beside it."""
    try:
        table = dict(json.loads(index.read_text())["weight_map"])
        if not all(isinstance(name, str) for name in table.values()):
            raise TypeError("a shard's name is no text")
    except (ValueError, KeyError, AttributeError, TypeError) as reason:
        raise UserError(f"{index} is not an index of shards (a json object with a weight_map): {reason!r}") from reason
    names = dict.fromkeys(table.values())
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UserError(
            f"{index} names files of other folders ({', '.join(outside[:NAMED])}), and shards lie beside their index; nothing "
            "was read. Do not use an index from someone you do not trust"
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index} names shards that are not beside it: {', '.join(missing)}; fetch them and try again")
    return {key: index.parent / name for key, name in table.items()}


def require_keys(index: Path, shards: dict[Path, object], places: dict[str, Path]) -> None:
    """Raise UserError with a sentence for each shard that lacks keys which the index says it holds."""
    lacking: dict[Path, list[str]] = {}
    for key, file in places.items():
        if key not in shards[file]:
            lacking.setdefault(file, []).append(key)
    raise_any(
        f"{file} lacks {len(keys)} entries that {index.name} says it holds ({', '.join(keys[:NAMED])}): one of the two is of "
        "another model; fetch both again"
        for file, keys in lacking.items()
    )
