"""Safetensors, indices, folders, adapters, bundles and masks that lie about what they hold, or are no files at all."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.conftest import tiny_models

BASE = ["model=files", "specify_lambda=1", "output=out.safetensors"]
ESCAPES = "\x1b]0;title\x07\x1b[2J\r\nerror: all is well"
BOMB = r"(.|\w)*(.|\d)*(.|l)*(.|a)*(?<=zz)"  # on which even `regex` takes hours


def commands(path: Path) -> list[list[str]]:
    """Return the command lines that read a path: as masks, a bundle's task, an adapter, or as the fine-tuned or base model."""
    if path.name.startswith("mask"):
        return [["main.py", *BASE, "pretrained=base.safetensors", "finetuned=[good.safetensors]", "method=consensus",
                 f"method.load_mask='{path}'"]]  # fmt: skip
    task = "/good" if path.name.startswith("bundle") else ""
    finetuned = ["main.py", *BASE, "pretrained=base.safetensors", f"finetuned=[hostile/{path.name}{task}]"]
    pretrained = ["main.py", *BASE, f"pretrained=hostile/{path.name}{task}", "finetuned=[good.safetensors]"]
    return [finetuned, pretrained] if path.is_file() else [finetuned]


def header(entries: object, data: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    """Return a writer of a safetensors file with a header, JSON or bytes, whose length may be a lie."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data) and None


def entry(shape: list[int], start: int = 0, end: int = 8, dtype: str = "F32") -> dict:
    """Return a header's words on one entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def index(content: object) -> Callable[[Path], None]:
    """Return a writer of a folder with an index, JSON or text, and one shard."""

    def write(path: Path) -> None:
        path.mkdir()
        save_file({"a": torch.ones(2)}, path / "one.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (path / "model.safetensors.index.json").write_text(text, errors="surrogatepass")

    return write


def write_shards(path: Path) -> None:
    """Write a folder with the base model in shards."""
    model = tiny_models(1)[0]
    index({"weight_map": {key: f"{number}.safetensors" for number, key in enumerate(model)}})(path)
    for number, (key, leaf) in enumerate(model.items()):
        save_file({key: leaf}, path / f"{number}.safetensors")


def weight_map(**shards: object) -> Callable[[Path], None]:
    """Return a writer of a folder whose index names these shards."""
    return index({"weight_map": shards})


def adapter(settings: object = None, **changes: object) -> Callable[[Path], None]:
    """Return a writer of an adapter of the base model, its settings changed, or JSON or text of one's own."""

    def write(path: Path) -> None:
        path.mkdir()
        factors = {"lora_A.weight": torch.ones(2, 3), "lora_B.weight": torch.ones(7, 2)}
        save_file({f"base_model.model.frozen.{name}": leaf for name, leaf in factors.items()}, path / "adapter_model.safetensors")
        values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["frozen"], **changes}
        text = settings if isinstance(settings, str) else json.dumps(values if settings is None else settings)
        (path / "adapter_config.json").write_text(text)

    return write


def write_slow_adapter(path: Path) -> None:
    """Write an adapter whose pattern does not match a long name, and its model in the place of the base model."""
    adapter(rank_pattern={BOMB: 3})(path)
    save_file({"frozen.weight": torch.ones(7, 3), f"{'layers.' * 9}weight": torch.ones(7, 3)}, path / "../../base.safetensors")
    factors = {"lora_A.weight": torch.ones(2, 3), "lora_B.weight": torch.ones(7, 2)}
    save_file({f"{'layers.' * 9}{name}": leaf for name, leaf in factors.items()}, path / "adapter_model.safetensors")


def bundle(facts: object = None, masks: dict[str, torch.Tensor] | None = None, **changes: object) -> Callable[[Path], None]:
    """Return a writer of a bundle with one task, its facts changed, or JSON or text of one's own."""

    def write(path: Path) -> None:
        path.mkdir()
        pretrained = tiny_models(1)[0]
        save_file(pretrained, path / "pretrained.safetensors")
        save_file({key: leaf for key, leaf in pretrained.items() if leaf.is_floating_point()}, path / "shared.safetensors")
        values = {"finetuned": {"good": ""}, "base": {}, "pretrained": "", "lambdas": None, "chosen_from": None, **changes}
        text = facts if isinstance(facts, str) else json.dumps(values if facts is None else facts)
        bits = {"good/mask/head.bias": torch.ones(1, dtype=torch.uint8)} if masks is None else masks
        save_file(bits, path / "tasks.safetensors", {"kind": "bundle", "facts": text})

    return write


def as_file(write: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """Return a writer of one file of what another writes as a folder."""

    def write_file(path: Path) -> None:
        write(path.with_name("folder"))
        (path.with_name("folder") / name).rename(path)

    return write_file


def write_socket(path: Path) -> None:
    """Make a socket, by a short name: those of sockets are bounded."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def folder_of(**files: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a writer of a folder with these files; two underscores stand for a dot."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, write_file in files.items():
            write_file(path / name.replace("__", "."))

    return write


def link_to(target: str) -> Callable[[Path], None]:
    """Return a writer of a link."""
    return lambda path: path.symlink_to(target)


DEEP = "[" * 10**5
ONE = {"a": entry([2])}
FILES = {
    "good.pt": lambda path: torch.save({"state_dict": tiny_models(1)[0]}, path),
    "adapter_good": adapter(),
    "bundle_good": bundle(),
    "index_good": write_shards,
    "fifo.safetensors": os.mkfifo,
    "fifo.pt": os.mkfifo,
    "socket.safetensors": write_socket,
    "zero.safetensors": link_to("/dev/zero"),
    "zero.pt": link_to("/dev/zero"),
    "loop.safetensors": link_to("loop.safetensors"),
    "folder.safetensors": Path.mkdir,
    "header_length.safetensors": header(ONE, bytes(8), 2**62),
    "header_gigabyte.safetensors": header(ONE, bytes(8), 2**31),
    "header_none.safetensors": lambda path: path.write_bytes(b"\x00") and None,
    "header_deep.safetensors": header(b'{"a":' + DEEP.encode()),
    "header_list.safetensors": header([]),
    "header_null.safetensors": header(None),
    "header_duplicate.safetensors": header(b'{"a":%s,"a":%s}' % ((json.dumps(entry([2])).encode(),) * 2), bytes(8)),
    "offsets_overlap.safetensors": header({"a": entry([2]), "b": entry([2], 4, 12)}, bytes(12)),
    "offsets_reverse.safetensors": header({"a": entry([2], 8, 0)}, bytes(8)),
    "offsets_beyond.safetensors": header({"a": entry([2], 0, 2**40)}, bytes(8)),
    "offsets_negative.safetensors": header({"a": entry([2], -8, 0)}, bytes(8)),
    "shape_overflow.safetensors": header({"a": entry([2**32, 2**32, 2])}, bytes(8)),
    "shape_negative.safetensors": header({"a": entry([-2])}, bytes(8)),
    "shape_digits.safetensors": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "shape_long.safetensors": header({"a": entry([1] * 10**5 + [2])}, bytes(8)),
    "dtype_lie.safetensors": header({"a": entry([2], dtype="F64")}, bytes(8)),
    "dtype_unknown.safetensors": header({"a": entry([2], dtype="os.system")}, bytes(8)),
    "name_escapes.safetensors": header({ESCAPES: entry([2])}, bytes(8)),
    "name_long.safetensors": header({"k" * 10**7: entry([2])}, bytes(8)),
    "name_surrogate.safetensors": header(b'{"\\ud800":%s}' % json.dumps(entry([2])).encode(), bytes(8)),
    "names_many.safetensors": header({f"{number}": entry([0], 0, 0) for number in range(10**4)}),
    "metadata_list.safetensors": header({"__metadata__": [], **ONE}, bytes(8)),
    "index_list": index([]),
    "index_null": index("null"),
    "index_deep": index(DEEP),
    "index_deep_whole": index('{"weight_map":' + "[" * 500 + "]" * 500 + "}"),
    "index_digits": index('{"weight_map":' + "9" * 10**6 + "}"),
    "index_numbers": weight_map(a=1),
    "index_nested": weight_map(a={"b": ["c"]}),
    "index_outside": weight_map(a="../../base.safetensors"),
    "index_absolute": weight_map(a="/etc/passwd"),
    "index_parent": weight_map(a=".."),
    "index_itself": weight_map(a="model.safetensors.index.json"),
    "index_surrogate": weight_map(a="\ud800.safetensors"),
    "index_zero": weight_map(a="one\0.safetensors"),
    "index_escapes": weight_map(**{"a": ESCAPES}),
    "index_long": weight_map(a="n" * 10**5),
    "index_many": weight_map(**{str(number): f"{number}.safetensors" for number in range(10**4)}),
    "index_fifo": folder_of(model__safetensors__index__json=os.mkfifo),
    "index_endless": folder_of(model__safetensors__index__json=link_to("/dev/zero")),
    "index_loop": folder_of(model__safetensors__index__json=link_to("model.safetensors.index.json")),
    "shard_fifo": folder_of(model__safetensors=os.mkfifo),
    "shard_endless": folder_of(pytorch_model__bin=link_to("/dev/urandom")),
    "adapter_pattern": write_slow_adapter,
    "adapter_patterns": adapter(alpha_pattern={f"((?:f|fr|r|o|z|e|n)+)+{number}\\1$": 3 for number in range(900)}),
    "adapter_repeats": adapter(rank_pattern={"(?:(?:a{999}){999}){999}": 2}),
    "adapter_groups": adapter(rank_pattern={"(" * 500 + ")" * 500: 2}),
    "adapter_long_pattern": adapter(rank_pattern={"a|" * 10**6: 2}),
    "adapter_recursion": adapter(alpha_pattern={"(?R)?a": 2}),
    "adapter_list": adapter([]),
    "adapter_null": adapter("null"),
    "adapter_deep": adapter(DEEP),
    "adapter_deep_value": adapter('{"peft_type":"LORA","x":' + "[" * 900 + "]" * 900 + "}"),
    "adapter_digits": adapter('{"peft_type":"LORA","r":' + "9" * 10**5 + "}"),
    "adapter_infinite": adapter(lora_alpha=10**400),
    "adapter_zero_rank": adapter(r=0),
    "adapter_escapes": adapter(**{ESCAPES: True}),
    "adapter_targets": adapter(target_parameters=[["a"]]),
    "adapter_endless": folder_of(adapter_config__json=link_to("/dev/zero")),
    "adapter_fifo": folder_of(adapter_config__json=os.mkfifo),
    "bundle_facts_list": bundle([]),
    "bundle_facts_null": bundle("null"),
    "bundle_facts_deep": bundle(DEEP),
    "bundle_facts_text": bundle("no json"),
    "bundle_tasks_list": bundle(finetuned=["good"]),
    "bundle_no_task": bundle(finetuned={}),
    "bundle_mask_short": bundle(masks={"good/mask/blocks.0.w": torch.ones(1, dtype=torch.uint8)}),
    "bundle_mask_floats": bundle(masks={"good/mask/head.bias": torch.ones(1)}),
    "bundle_mask_unknown": bundle(masks={"good/mask/nobody": torch.ones(1, dtype=torch.uint8)}),
    "bundle_factors": bundle(masks={"good/left/blocks.0.w": torch.ones(4, 2), "good/right/blocks.0.w": torch.ones(3, 6)}),
    "bundle_half_factors": bundle(masks={"good/left/blocks.0.w": torch.ones(4, 2)}),
    "bundle_entry_shape": bundle(masks={"good/entry/head.bias": torch.ones(9)}),
    "bundle_names": bundle(masks={"good/": torch.ones(1), "good/mask": torch.ones(1)}),
    "mask_bundle_list": bundle([]),
    "mask_bundle_empty": bundle(masks={}),
    "mask_facts_list.safetensors": as_file(bundle([]), "tasks.safetensors"),
    "mask_base_list.safetensors": as_file(bundle(base=[]), "tasks.safetensors"),
    "mask_lambdas.safetensors": as_file(bundle(lambdas={"good": "x"}), "tasks.safetensors"),
    "mask_lambdas_absent.safetensors": as_file(bundle(lambdas={}), "tasks.safetensors"),
    "mask_grid.safetensors": as_file(bundle(chosen_from="x"), "tasks.safetensors"),
    "mask_tasks.safetensors": as_file(bundle(finetuned={ESCAPES: 1, "good": []}), "tasks.safetensors"),
    "mask_fifo.npy": os.mkfifo,
    "mask_endless.npy": link_to("/dev/zero"),
}  # fmt: skip
GOOD = {"good.pt", "adapter_good", "bundle_good", "index_good"}
HARMLESS = {"adapter_patterns"}  # where they are matched in time
