"""The machine that reads pickles: what torch reads is read the same, and no program makes it hash, copy or reserve much."""

import io
import pickle
import struct
from collections import OrderedDict

import pytest
import torch
from torch import nn

from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from src.pickles import unpickler
from src.pickles.unpickler import DictStandIn, FunctionStandIn, InertUnpickler

DTYPES = [
    getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
        "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool",
    )
]  # fmt: skip


def entries() -> dict[str, object]:
    """Return tensors of every dtype and form that state dicts have."""
    draw = torch.Generator().manual_seed(0)
    wide = torch.rand(6, 5, generator=draw) * 9
    marked = nn.Parameter(torch.ones(2))
    marked.origin, marked.steps = "x", 3
    attributed = torch.ones(2)
    attributed.shape_of_mine = (2,)
    return {
        **{str(dtype): wide.to(dtype) for dtype in DTYPES},
        "transposed": wide.T, "strided": wide[::2, 1:], "row of a shared storage": wide[3], "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4), "parameter": nn.Parameter(wide), "marked": marked, "attributed": attributed,
        "odd bytes": torch.arange(3, dtype=torch.int8), "after odd bytes": wide[0].double(),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read_to_the_bit(tmp_path, zipped, protocol):
    torch.save(entries(), tmp_path / "all.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    opened, expected = open_checkpoint(tmp_path / "all.pt"), entries()
    assert list(opened) == list(expected)
    for key, leaf in expected.items():
        assert opened[key].dtype == leaf.dtype and opened[key].shape == leaf.shape and opened[key].stride() == leaf.stride()
        assert torch.equal(
            opened[key].contiguous().reshape(-1).view(torch.uint8), leaf.detach().contiguous().reshape(-1).view(torch.uint8)
        )


def test_views_that_change_their_numbers_are_refused(tmp_path):
    torch.save({"a": (torch.ones(2) * 1j).conj()}, tmp_path / "conjugate.pt")
    with pytest.raises(UserError, match="conjugate or negative view"):
        open_checkpoint(tmp_path / "conjugate.pt")


class Reduced:
    """Pickles into a call, a state and entries."""

    def __init__(self, *reduction: object):
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


def test_attributes_that_shadow_methods_are_left_behind(tmp_path):
    weight = torch.rand(2, 2)
    shadow = dict.fromkeys(("numel", "items", "keys", "values", "get", "detach", "__class__"), 1)
    leaf = Reduced(torch._utils._rebuild_parameter_with_state, (weight, False, OrderedDict(), shadow))
    torch.save({"model": Reduced(OrderedDict, (), shadow, None, iter([("weight", leaf)]))}, tmp_path / "shadow.pt")
    opened = open_checkpoint(tmp_path / "shadow.pt")
    assert torch.equal(opened["weight"], weight) and opened["weight"].numel() == 4 and not vars(opened["weight"])


def test_an_unaligned_storage_is_copied_once_however_many_tensors_view_it(tmp_path):
    rows = torch.rand(4, 3)
    leaves = {"odd": torch.ones(1, dtype=torch.int8), **{f"row{number}": row for number, row in enumerate(rows)}}
    torch.save(leaves, tmp_path / "rows.pt", _use_new_zipfile_serialization=False)
    opened = open_checkpoint(tmp_path / "rows.pt")
    addresses = [opened[f"row{number}"].data_ptr() for number in range(4)]
    assert addresses == [addresses[0] + 12 * number for number in range(4)]


def read(program: bytes, stand_ins: dict[str, object] | None = None) -> object:
    """Run a pickle made by hand, with names of a module `m`."""
    file = io.BytesIO(b"\x80\x04" + program + b".")
    return InertUnpickler(file, lambda _, name: (stand_ins or {}).get(name), ("no", "no")).load()


def nested(depth: int) -> bytes:
    """Return the program of a tuple that holds a tuple twice, and so on."""
    return b"K\x01" + b"2\x86" * depth


SURROGATE = b"\x8c\x03\xed\xa0\x80"
BOMBS = {
    "a nested tuple as a key": b"}" + nested(2) + b"Ns",
    "nested tuples as keys": b"}(" + nested(2) + b"Nu",
    "a nested tuple in the dict of a mark": b"(" + nested(2) + b"Nd",
    "a nested tuple in a set": b"\x8f(" + nested(2) + b"\x90",
    "a nested tuple in a frozenset": b"(" + nested(2) + b"\x91",
    "a frozenset in a set": b"\x8f((K\x01\x91\x90",
    "a nested tuple in pairs": b"cm\nDict\n](" + nested(2) + b"N\x86e\x85R",
    "a tuple of numbers": b"}K\x01K\x02\x86Ns",
    "a long tuple": b"}(" + b"\x8c\x01a" * 17 + b"tNs",
    "a number of more bits": b"}\x8a\x09" + b"\xff" * 8 + b"\x00Ns",
    "half a surrogate pair": b"}" + SURROGATE + b"Ns",
    "a memo index of digits": b"Np" + b"9" * 40 + b"\n",
    "a number of any length": b"\x8b\x01\x00\x00\x00\x01",
    "an extension code": b"\x82\x01",
    "an old class": b"(cm\nDict\no",
    "a buffer": b"\x97",
    "an unknown operation": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_program_that_takes_long_is_refused(bomb):
    with pytest.raises((pickle.UnpicklingError, UnicodeEncodeError)):
        read(BOMBS[bomb], {"Dict": DictStandIn})


def test_keys_of_names_and_numbers_are_read():
    keys = ["a", b"b", 3, -(2**62), 1.5, None, True, ("a", "b")]
    assert list(InertUnpickler(io.BytesIO(pickle.dumps(dict.fromkeys(keys))), lambda *_: None, ("", "")).load()) == keys


@pytest.mark.parametrize(
    "program",
    [
        b"X" + struct.pack("<I", 2**31), b"\x8d" + struct.pack("<Q", 2**40), b"\x8e" + struct.pack("<Q", 2**40),
        b"\x96" + struct.pack("<Q", 2**40), b"B" + struct.pack("<I", 2**32 - 1), b"\x95" + struct.pack("<Q", 2**62) + b"N",
        b"Nr" + struct.pack("<I", 2**32 - 1),
    ],
)  # fmt: skip
def test_lengths_and_indices_reserve_nothing(program):
    """Each would take gigabytes of what is not there, at an index nobody asked for, if it were believed."""
    file = io.BytesIO(program)
    machine = InertUnpickler(file, lambda *_: None, ("", ""))
    with pytest.raises(EOFError):
        machine.load()
    assert len(machine.memo) <= 1 and all(value is None or len(value) < 9 for value in machine.stack)


def test_operations_and_copies_are_counted(monkeypatch):
    monkeypatch.setattr(unpickler, "MAX_OPERATIONS", 50)
    assert read(b"N0" * 20 + b"N") is None
    with pytest.raises(pickle.UnpicklingError, match="more than 50 operations"):
        read(b"N0" * 30 + b"N")


@pytest.mark.parametrize("content", [b"X\x14\x00\x00\x00" + b"x" * 20, b"(NNNNNl", b"(NNNNNNNNNNNNNNNNNNNNt"])
def test_one_thing_is_not_copied_again_and_again(content, monkeypatch):
    monkeypatch.setattr(unpickler, "COPY_ALLOWANCE", 500)
    call = {"f": FunctionStandIn(lambda value: None)}
    program = content + b"\x94cm\nf\nh\x00\x85R"
    assert read(program, call) is None
    with pytest.raises(pickle.UnpicklingError, match="copies one thing"):
        read(program + b"0cm\nf\n\x94h\x00\x85R" + b"0h\x01h\x00\x85R" * 60, call)
