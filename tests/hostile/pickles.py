"""Pickles that would run code, or take all memory or time of who reads them as other readers do."""

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.hostile.harness import CANARY

TOUCH = f"touch {CANARY}".encode()
TENSOR = torch.ones(2, 3)
BASE = ["model=files", "pretrained=base.safetensors", "specify_lambda=1", "output=out.safetensors"]


def commands(path: Path) -> list[list[str]]:
    """Return the command lines that read a pickle: as masks, or as weights, those that call something also to convert them."""
    if path.suffix == ".npy" or path.name.startswith("mask"):
        return [["main.py", *BASE, "finetuned=[good.safetensors]", "method=consensus", f"method.load_mask='{path}'"]]
    merge = ["main.py", *BASE, f"finetuned=[hostile/{path.name}]"]
    convert = ["convert_checkpoints.py", str(path.parent), "--output=converted"]
    return [merge, convert] if path.name.startswith(("call", "hash", "shadowed")) else [merge]


def text(value: str | bytes) -> bytes:
    """Return the program of a text."""
    value = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(value)) + value


def call(name: str, *arguments: bytes) -> bytes:
    """Return the program of a call of `module name`."""
    module, function = name.split()
    return f"c{module}\n{function}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(shape: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00", count: bytes = b"K\x04") -> bytes:
    """Return the program of a tensor of a storage with four floats."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + count + b"tQ"
    return call("torch._utils _rebuild_tensor_v2", storage, offset, shape, stride, b"\x89", b"N")


def zipped(program: bytes, **entries: bytes) -> Callable[[Path], None]:
    """Return a writer of an archive of torch's form around a program."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("file/data.pkl", b"\x80\x04" + program + b".")
            archive.writestr("file/data/0", bytes(16))
            for name, content in entries.items():
                archive.writestr(f"file/{name}", content)

    return write


def bare(content: bytes) -> Callable[[Path], None]:
    """Return a writer of bytes."""
    return lambda path: path.write_bytes(content)


def entry(value: bytes) -> Callable[[Path], None]:
    """Return a writer of a state dict whose second entry is a program."""
    return zipped(b"}(" + text("embed.weight") + tensor() + text("a") + value + b"u")


def key(value: bytes) -> Callable[[Path], None]:
    """Return a writer of a state dict one of whose names is a program."""
    return zipped(b"}(" + text("embed.weight") + tensor() + value + b"K\x01u")


def legacy(*programs: bytes) -> Callable[[Path], None]:
    """Return a writer of torch's legacy format: a magic number, a version, the machine, and these programs."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
    return bare(head + b"".join(b"\x80\x04" + program + b"." for program in programs))


def array_header(header: bytes, version: int = 1, length: int | None = None) -> Callable[[Path], None]:
    """Return a writer of an .npy file with a header, whose length may be a lie."""
    form = "<H" if version == 1 else "<I"
    size = struct.pack(form, len(header) if length is None else length)
    return bare(b"\x93NUMPY" + bytes([version, 0]) + size + header)


def masks(program: bytes) -> Callable[[Path], None]:
    """Return a writer of masks as np.save writes them: a header and a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    return bare(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\x80\x04" + program + b".")


def nested(depth: int, first: bytes = b"K\x01") -> bytes:
    """Return the program of a tuple that holds a tuple twice, and so on."""
    return first + b"2\x86" * depth


def nested_sets(depth: int) -> bytes:
    """Return the program of a frozenset of tuples of the frozenset below, and so on."""
    return b"(" * depth + b"K\x01" + b"2\x86\x91" * depth


def shared_dicts(depth: int) -> bytes:
    """Return the program of a dict that holds the dict below under two names, and so on."""
    below = b"}" + text("w") + tensor() + b"s\x94"
    for level in range(depth):
        below += b"0}(" + text("a") + b"j" + struct.pack("<I", level) + text("b") + b"j" + struct.pack("<I", level) + b"u\x94"
    return below


def array(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    """Return the program of an array of numpy."""
    whole = call("numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"C\x01b")
    return whole + b"(K\x01" + shape + call("numpy dtype", dtype, b"\x89", b"\x88") + b"\x89" + content + b"tb"


def colliding(count: int) -> bytes:
    """Return the program of a dict of numbers that have one hash, each a multiple of a prime."""
    numbers = ((index * (2**61 - 1)).to_bytes(10, "little") for index in range(1, count + 1))
    return b"}(" + b"".join(b"\x8a\x0a" + number + b"N" for number in numbers) + b"u"


def write_inflated(path: Path) -> None:
    """Write an archive whose pickle of many zeros is compressed."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("file/data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(2**7):
            file.write(bytes(2**20))


def write_overlapping(path: Path) -> None:
    """Write an archive many of whose entries are the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", b"\x80\x02}." + bytes(10**5))
        first = archive.infolist()[0]
        for number in range(999):
            copy = zipfile.ZipInfo(f"file/data/{number}")
            copy.header_offset, copy.file_size, copy.compress_size, copy.CRC = 0, first.file_size, first.file_size, first.CRC
            archive.filelist.append(copy)


def write_shadowed(path: Path) -> None:
    """Write a state dict whose mapping and tensor have attributes in the place of methods."""
    shadow = b"}(" + b"".join(text(name) + b"K\x01" for name in ("items", "keys", "get", "values", "numel", "shape")) + b"u"
    leaf = call("torch._utils _rebuild_parameter_with_state", tensor(), b"\x89", b"N", shadow)
    zipped(b"ccollections\nOrderedDict\n)R(" + text("w") + leaf + b"u" + shadow + b"b")(path)


DEPTH = 10**5
COMMANDS = {
    "os_system": call("os system", text(TOUCH)),
    "posix_system": call("posix system", text(TOUCH)),
    "eval": call("builtins eval", text(f"open({CANARY!r}, 'w')")),
    "exec": call("builtins exec", text(f"open({CANARY!r}, 'w')")),
    "python2_eval": call("__builtin__ eval", text(f"open({CANARY!r}, 'w')")),
    "subprocess": call("subprocess check_call", text(TOUCH) + b"\x85"),
    "open": call("io open", text(CANARY), text("w")),
    "getattr": call("builtins getattr", text("a"), text("upper")),
    "import": call("importlib import_module", text("antigravity")),
    "torch_load": call("torch load", text("x")),
    "jit_load": call("torch.jit load", text("x")),
    "hub": call("torch.hub load", text("someone/something"), text("model")),
    "numpy_load": call("numpy load", text("x")),
    "runpy": call("runpy run_path", text("x")),
    "ctypes": call("ctypes CDLL", text("libc.so.6")),
    "socket": call("socket create_connection", b"(" + text("127.0.0.1") + b"K\x50t"),
    "nn_module_attribute": b"ctorch.nn\nsys.modules\n",
    "bytearray": call("builtins bytearray", b"J\xff\xff\xff\x7f"),
    "dunder": call("builtins object.__reduce_ex__", b"K\x02"),
}
FILES = {
    "good_masks.npy": lambda path: np.save(path, {"good": np.full(17, 255, np.uint8)}),
    **{f"call_{name}.pt": entry(program) for name, program in COMMANDS.items()},
    **{f"top_{name}.pt": bare(b"\x80\x02" + COMMANDS[name] + b".") for name in ("os_system", "eval", "subprocess")},
    **{f"legacy_{name}.pt": legacy(COMMANDS[name]) for name in ("os_system", "eval")},
    **{f"mask_{name}.npy": masks(COMMANDS[name]) for name in ("os_system", "eval", "open", "subprocess")},
    "stack_global.pt": entry(text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R"),
    "inst.pt": entry(b"(" + text(TOUCH) + b"ios\nsystem\n"),
    "obj.pt": entry(b"(cos\nsystem\n" + text(TOUCH) + b"o"),
    "extension.pt": entry(b"\x82\x01)R"),
    "persistent.pt": entry(text("evil") + b"Q"),
    "build_on_class.pt": entry(b"ctorch.nn\nModule\n}" + text("__setstate__") + b"K\x01sb"),
    "hash_tuples.pt": key(nested(60)),
    "hash_tuples_deep.pt": key(b"K\x01" + b"\x85" * DEPTH),
    "hash_frozensets.pt": key(nested_sets(30)),
    "hash_two_alike.pt": zipped(b"}(" + nested(40) + b"K\x01" + nested(40) + b"K\x01u"),
    "hash_numbers.pt": zipped(colliding(10**5)),
    "hash_set.pt": entry(b"\x8f(" + nested(60) + b"\x90"),
    "hash_class_set.pt": entry(call("builtins set", b"]" + nested(60) + b"a")),
    "hash_pairs.pt": entry(call("collections OrderedDict", b"](" + nested(60) + b"K\x01\x86e")),
    "hash_storage.pt": legacy(b"}", b"]" + nested(60) + b"a"),
    "repr_tuples.pt": zipped(nested(60)),
    "repr_value.pt": entry(nested(60)),
    "repr_lists.pt": entry(b"]" + b"2]q\x00h\x00h\x00e" * 2 + b"]q\x01h\x01a"),
    "long_key.pt": key(text("k" * 10**7)),
    "long_number.pt": key(b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6),
    "long_digits.pt": key(b"I" + b"9" * 10**6 + b"\n"),
    "surrogate_key.pt": key(b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "escape_key.pt": key(text("\x1b]0;title\x07\x1b[2J\nerror: all is well\r")),
    "memo_index.pt": entry(b"Nr\xff\xff\xff\xff"),
    "memo_digits.pt": entry(b"Np" + b"9" * 4000 + b"\n"),
    "binbytes8.pt": entry(b"\x8e" + struct.pack("<Q", 2**40)),
    "binunicode8.pt": entry(b"\x8d" + struct.pack("<Q", 2**34)),
    "bytearray8.pt": entry(b"\x96" + struct.pack("<Q", 2**34)),
    "binunicode.pt": entry(b"X\xff\xff\xff\xff"),
    "frame.pt": entry(b"\x95" + struct.pack("<Q", 2**62) + b"N"),
    "legacy_bytearray8.pt": legacy(b"\x96" + struct.pack("<Q", 2**34)),
    "marks.pt": zipped(b"(" * 10**7),
    "sets.pt": zipped(b"\x8f" * 10**7),
    "memoized.pt": zipped(b"N" + b"\x94" * 10**7),
    "copies.pt": entry(b"](" + b"N" * 10**5 + b"e\x94" + call("builtins set", b"h\x00") * 2 + b"0cbuiltins\nset\nh\x00\x85R" * 2000),
    "dict_copies.pt": zipped(b"}(" + b"".join(text(str(n)) + b"N" for n in range(10**4)) + b"u\x94"
                             + b"ccollections\nOrderedDict\nh\x00\x85R" * 10**4 + b"l"),
    "deep_lists.pt": entry(b"]" * DEPTH + b"a" * (DEPTH - 1)),
    "deep_dicts.pt": entry((b"}" + text("a")) * DEPTH + b"N" + b"s" * DEPTH),
    "deep_calls.pt": entry(b"ccollections\nOrderedDict\n" * DEPTH + b")R" + b"\x85R" * (DEPTH - 1)),
    "shared_dicts.pt": zipped(shared_dicts(60)),
    "shared_modules.pt": entry(b"ctorch.nn\nModule\n)\x81" + (b"q\x00ctorch.nn\nModule\n)\x81}" + text("_modules") + b"}("
                               + text("a") + b"h\x00" + text("b") + b"h\x00usb") * 60),
    "zero_stride.pt": entry(tensor(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"K\x00K\x00\x86")),
    "long_shape.pt": entry(tensor(b"(" + b"K\x01" * 10**6 + b"t", b"(" + b"K\x01" * 10**6 + b"t")),
    "beyond_storage.pt": entry(tensor(b"K\x05\x85")),
    "negative_offset.pt": entry(tensor(offset=b"J\xff\xff\xff\xff")),
    "big_storage.pt": entry(tensor(count=b"\x8a\x08" + b"\xff" * 7 + b"\x3f")),
    "nested_shape.pt": entry(tensor(nested(60), nested(60))),
    "shadowed.pt": write_shadowed,
    "inflated.pt": write_inflated,
    "overlapping.pt": write_overlapping,
    "two_pickles.pt": zipped(b"}", **{"other/data.pkl": b"\x80\x02}."}),
    "no_storage.pt": zipped(b"}" + text("a") + tensor().replace(text("0"), text("../../../etc/passwd")) + b"s"),
    "empty.pt": bare(b""),
    "noise.pt": bare(bytes(range(256)) * 9),
    "header_deep.npy": array_header(b"(" * 9000),
    "header_minus.npy": array_header(b"-" * 9000 + b"1"),
    "header_long.npy": array_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (" + b"1," * 10**6 + b")}", 2),
    "header_digits.npy": array_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",)}"),
    "header_lie.npy": array_header(b"{}", 2, 2**32 - 1),
    "header_version.npy": array_header(b"{}", 9),
    "header_shape.npy": array_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999, 9)}"),
    "header_code.npy": array_header(f"__import__('os').system('touch {CANARY}')".encode()),
    "mask_nested_shape.npy": masks(b"}" + text("good") + array(text("u1"), nested(60), b"C\x01a") + b"s"),
    "mask_nested_dtype.npy": masks(b"}" + text("good") + array(nested(60), b"K\x01\x85", b"C\x01a") + b"s"),
    "mask_hash.npy": masks(b"}" + nested(60) + array(text("u1"), b"K\x01\x85", b"C\x01a") + b"s"),
    "mask_big_shape.npy": masks(b"}" + text("good") + array(text("u1"), b"\x8a\xff" + b"\x7f" * 255 + b"\x85", b"C\x01a") + b"s"),
    "mask_long_shape.npy": masks(b"}" + text("good") + array(text("u1"), b"(" + b"\x8a\x08" + b"\x7f" * 8 + b"2" * 10**5 + b"t", b"C\x01a") + b"s"),
    "mask_repeated.npy": masks(b"}(" + text("x" * 10**6) + b"\x94" + b"0"
                               + b"(c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R1" * 1 + b"(c_codecs\nencode\nh\x00\x8c\x06latin1\x86R" * 9000 + b"l"),
    "mask_tensor.pt": lambda path: torch.save({"good": TENSOR}, path),
    "mask_numbers.npy": lambda path: np.save(path, np.ones(4)),
}  # fmt: skip
GOOD = {"good_masks.npy"}
HARMLESS = {"shadowed.pt", "two_pickles.pt"}
