"""Pickles in every format that published files have are read, and nothing in them is run."""

import builtins
import itertools
import os
import pickle
import subprocess
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from src.checkpoints.naming import spelled_like
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import open_tangent_pair
from src.errors import UserError
from src.pickles.linearized import parameter_shapes
from src.pickles.mask_arrays import read_arrays
from src.pickles.modules import read_modules
from src.pickles.stand_ins import STAND_INS, InertObject
from tests.helpers.foreign_pickles import ImageEncoder, linearized_entries, pickled_in, save_encoder, save_head, tiny_clip


def same(left, right) -> bool:
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in right)


@pytest.mark.parametrize("keep_lang", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("module", ["src.models.modeling", "src.modeling", "clip.encoders"])
def test_whole_encoders_are_read_as_the_published_state_dicts(tmp_path, module, zipped, keep_lang):
    path = tmp_path / "nonlinear_finetuned.pt"
    expected = save_encoder(path, module, keep_lang, _use_new_zipfile_serialization=zipped)
    assert not any(key.startswith("model.transformer.") for key in expected) and "model.visual.proj" in expected
    whole = open_checkpoint(path)
    assert same(spelled_like(whole, expected).entries, expected)
    assert any(key.startswith("model.transformer.") for key in whole) == keep_lang  # nothing that the file holds is lost


@pytest.mark.parametrize("module", ["src.models.modeling", "src.modeling"])
def test_heads_are_read_as_weight_and_bias(tmp_path, module):
    weight = save_head(tmp_path / "head_MNISTVal.pt", module)
    assert same(open_checkpoint(tmp_path / "head_MNISTVal.pt"), {"weight": weight, "bias": torch.zeros(5)})


class Norms(nn.Module):
    """A module with all that its state dict leaves out, a child of two names, and a parameter that is not contiguous."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.shared = self.norm
        self.absent = None
        self.register_parameter("nothing", None)
        self.register_buffer("non_persistent", torch.ones(2), persistent=False)
        self.register_buffer("persistent", torch.arange(4))
        self.layers = nn.ModuleList(
            [nn.Linear(3, 2, bias=False), nn.ParameterDict({"scale": torch.ones(1, dtype=torch.bfloat16)})]
        )
        self.strided = nn.Parameter(torch.randn(4, 6).T[::2])


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_module_is_read_as_its_own_state_dict(tmp_path, protocol):
    with pickled_in("src.my.models", Norms):
        module = Norms()
        torch.save({"model": module, "epoch": 3}, tmp_path / "dict.pt", pickle_protocol=protocol)
        torch.save({"state_dict": {"net": module}}, tmp_path / "nested.pt")
    assert same(open_checkpoint(tmp_path / "dict.pt"), module.state_dict())
    with pytest.raises(UserError, match="tensors only: net"):
        open_checkpoint(tmp_path / "nested.pt")


def test_a_whole_module_is_mapped_and_not_copied(tmp_path):
    path = tmp_path / "encoder.pt"
    expected = save_encoder(path, "src.modeling")
    opened = open_checkpoint(path)
    start = path.read_bytes().index(expected["model.visual.proj"].numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.full(expected["model.visual.proj"].numel(), 7, np.float32).tobytes())
    assert (opened["model.visual.proj"] == 7).all()
    opened["model.visual.proj"].fill_(8)  # stays in memory
    assert (open_checkpoint(path)["model.visual.proj"] == 7).all()


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_parameters_are_numbered_as_open_clip_names_them(name):
    with torch.device("meta"):
        encoder = ImageEncoder(open_clip.CLIP(**open_clip.get_model_config(name)))
    order = dict(parameter_shapes({"ViT-B-32": 12, "ViT-B-16": 12, "ViT-L-14": 24}[name]))
    assert list(order) == [key for key, _ in encoder.named_parameters()]
    assert [len(shape) for shape in order.values()] == [leaf.ndim for leaf in encoder.parameters()]


def test_linearized_checkpoints_have_two_models_with_names(tmp_path):
    finetuned, reference = (dict(ImageEncoder(tiny_clip(seed)).named_parameters()) for seed in (0, 1))
    torch.save(linearized_entries(finetuned, reference), tmp_path / "linear_finetuned.pt")
    assert same(open_checkpoint(tmp_path / "linear_finetuned.pt"), finetuned)
    pair = open_tangent_pair(tmp_path / "linear_finetuned.pt")
    assert same(pair[0], finetuned) and same(pair[1], reference)
    torch.save(finetuned, tmp_path / "plain.pt")
    plain, no_reference = open_tangent_pair(tmp_path / "plain.pt")
    assert same(plain, finetuned) and no_reference is None


@pytest.mark.parametrize("fault", ["short", "order", "norms", "foreign entry", "gap"])
def test_numbered_parameters_of_something_else_are_refused(tmp_path, fault):
    finetuned = dict(ImageEncoder(tiny_clip()).named_parameters())
    entries = linearized_entries(finetuned, finetuned)
    if fault == "short":
        del entries["model.params.3"]
    elif fault == "gap":
        entries["model.params.99"] = entries.pop("model.params.3")
    elif fault == "order":
        entries["model.params.9"], entries["model.params.11"] = entries["model.params.11"], entries["model.params.9"]
    elif fault == "norms":
        for number, key in enumerate(finetuned):
            if ".ln_" in key and key.endswith("weight"):
                for model in ("params", "params0"):
                    weight, bias = f"model.{model}.{number}", f"model.{model}.{number + 1}"
                    entries[weight], entries[bias] = entries[bias], entries[weight]
    else:
        entries["other"] = torch.ones(1)
    torch.save(entries, tmp_path / "linear_finetuned.pt")
    with pytest.raises(UserError, match=r"linear_finetuned\.pt is a linearized checkpoint of no model"):
        open_checkpoint(tmp_path / "linear_finetuned.pt")


class Calls:
    """Pickles into a call."""

    def __init__(self, function, *arguments, state=None):
        self.reduction = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduction


ATTACKS = [
    (os.system, ("touch sprung",), "posix.system"),
    (builtins.eval, ("open('sprung', 'w')",), "builtins.eval"),
    (builtins.exec, ("open('sprung', 'w')",), "builtins.exec"),
    (builtins.getattr, (os, "system"), "builtins.getattr"),
    (subprocess.check_call, (["touch", "sprung"],), "subprocess.check_call"),
    (np.fromfile, ("/etc/passwd",), "numpy"),
    (torch.load, ("x",), "torch.serialization.load"),
    (torch.hub.load, ("x", "y"), "torch.hub.load"),
]


@pytest.mark.parametrize("position", ["top", "entry", "attribute", "state", "bare", "legacy"])
@pytest.mark.parametrize("function,arguments,name", ATTACKS, ids=lambda value: getattr(value, "__name__", None))
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, monkeypatch, position, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    call = Calls(function, *((str(argument) if argument is os else argument) for argument in arguments))
    module = nn.Linear(2, 2)
    module.trap = call
    content = {
        "entry": {"a": torch.ones(1), "deep": [{"x": call}]},
        "attribute": module,
        "state": Calls(nn.Linear, 2, 2, state={"_parameters": call}),
    }.get(position, call)
    if position == "bare":
        (tmp_path / "file.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=position != "legacy")
    with pytest.raises(UserError, match=rf"asks to call {name}.*nothing in it was run") as excinfo:
        open_checkpoint("file.pt")
    assert not (tmp_path / "sprung").exists() and "file.pt" in str(excinfo.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of sparse tensors
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "entries,words",
    [
        ({"a": torch.ones(1).expand(10**6, 10**6)}, r"a \(of shape \(1000000, 1000000\), which is more than the whole file"),
        ({"a": torch.empty(3, device="meta")}, r"a \(without values, on the device meta"),
        ({"a": torch.eye(3).to_sparse()}, r"a \(sparse"),
        ({"a": torch.ones(1), 7: torch.ones(1)}, r"7 \(a int for a name"),
        ({("a", "b"): torch.ones(1)}, r"\('a', 'b'\) \(a tuple for a name"),
    ],
    ids=["zero strides", "meta", "sparse", "number", "pair"],
)
def test_tensors_that_torch_reads_and_that_are_not_ordinary_are_refused(tmp_path, entries, words, zipped):
    torch.save({"state_dict": entries}, tmp_path / "odd.pt", _use_new_zipfile_serialization=zipped)
    assert torch.load(tmp_path / "odd.pt", weights_only=True)["state_dict"].keys() == entries.keys()
    with pytest.raises(UserError, match=rf"odd\.pt is not a dict of tensors only: {words}"):
        open_checkpoint(tmp_path / "odd.pt")


def test_compressed_and_overlapping_entries_are_refused_before_anything_is_read(tmp_path):
    torch.save({"a": torch.ones(9)}, tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for entry in stored.infolist():
            is_compressed = entry.filename.endswith("/version")
            bomb.writestr(entry.filename, stored.read(entry), zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED)
    with zipfile.ZipFile(tmp_path / "many.pt", "w") as many:
        many.writestr("many/data.pkl", bytes(1000))
        first = many.infolist()[0]
        for number in range(9):
            copy = zipfile.ZipInfo(f"many/data/{number}")
            copy.header_offset, copy.file_size, copy.compress_size, copy.CRC = first.header_offset, 1000, 1000, first.CRC
            many.filelist.append(copy)
    for name, words in (("bomb", "version is compressed"), ("many", "share its bytes")):
        for read in (open_checkpoint, read_arrays, read_modules):
            with pytest.raises((UserError, zipfile.BadZipFile), match=words):
                read(tmp_path / f"{name}.pt")


def save_program(path, program: bytes) -> None:
    """Write a zip of torch's format around a pickle made by hand. Torch refuses the ones below, so our reader gets them."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("file/data/0", bytes(16))


def tensor(offset=0, shape=2, stride=1, kind=b"ctorch\nFloatStorage\n", count=4, key=b"0") -> bytes:
    number = lambda value: b"J" + value.to_bytes(4, "little", signed=True)  # noqa: E731
    storage = b"(X\x07\x00\x00\x00storage" + kind + b"X\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    shapes = number(shape) + b"\x85" + number(stride) + b"\x85" + b"\x89N"
    return b"ctorch.nn\nModule\n0" + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + shapes + b"tR"


def test_a_tensor_by_hand_is_read(tmp_path):
    save_program(tmp_path / "good.pt", b"}X\x01\x00\x00\x00a" + tensor() + b"s")
    assert same(open_checkpoint(tmp_path / "good.pt"), {"a": torch.zeros(2)})


@pytest.mark.parametrize(
    "program",
    [
        tensor(offset=3), tensor(offset=-1), tensor(shape=5), tensor(stride=9), tensor(count=9), tensor(key=b"1"),
        tensor(shape=2**30, stride=0),
        tensor(kind=b"ctorch.nn\nModule\n"),
        b"ctorch.nn\nModule\n0X\x04\x00\x00\x00evilQ",  # a persistent id that is no storage
        b"ctorch.nn\nModule\n0X\x06\x00\x00\x00moduleccollections\nOrderedDict\n\x86Q",
        b"ctorch.nn\nModule\n}X\x04\x00\x00\x00evilK\x01sb",  # BUILD on a class
        b"ctorch.nn\nModule\nN}X\x09\x00\x00\x00__class__K\x01s\x86b",
        b"ccollections\nOrderedDict\n}X\x04\x00\x00\x00evilK\x01sb",
        b"ctorch.nn\nModule\n0ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evilK\x01sb",  # BUILD on a function
        b"ctorch.nn\nModule\n0ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb",
        b"ctorch.nn\nModule\n0ctorch\nfloat32\n}X\x05\x00\x00\x00dtypeK\x01sb",
        b"ctorch.nn\nModule\n0cbuiltins\nset\n}X\x09\x00\x00\x00_functionK\x01sb",
        b"ctorch.nn\nModule\n0\x82\x01",  # an extension code
    ],
)  # fmt: skip
def test_tricks_of_hand_written_pickles_are_refused(tmp_path, program):
    before = {name: repr(stand_in) for name, stand_in in STAND_INS.items()}, dict(vars(InertObject))
    for name, content in (("bare.pt", program), ("entry.pt", b"}X\x01\x00\x00\x00a" + program + b"s")):
        save_program(tmp_path / name, content)
        with pytest.raises(UserError, match=name):
            open_checkpoint(tmp_path / name)
    assert ({name: repr(stand_in) for name, stand_in in STAND_INS.items()}, dict(vars(InertObject))) == before
    assert not hasattr(nn.Module, "evil")


def pair(first: bytes, second: bytes) -> bytes:
    return b"}X\x01\x00\x00\x00a" + first + b"sX\x01\x00\x00\x00b" + second + b"s"


@pytest.mark.parametrize("other", [{"kind": b"ctorch\nLongStorage\n", "count": 2}, {"count": 2}])
def test_a_storage_named_twice_is_the_same_both_times(tmp_path, other):
    save_program(tmp_path / "twice.pt", pair(tensor(), tensor()))
    assert len(open_checkpoint(tmp_path / "twice.pt")) == 2
    save_program(tmp_path / "twice.pt", pair(tensor(), tensor(**other)))
    with pytest.raises(UserError, match="storage 0 twice"):
        open_checkpoint(tmp_path / "twice.pt")


def test_attributes_set_on_stand_ins_change_nothing(tmp_path):
    """A state that names the methods we call stays data."""
    linear = nn.Linear(2, 2)
    linear.__dict__.update(state=1, to_tensor="x", items="y", __setstate__="z", __class__="w")
    torch.save(linear, tmp_path / "file.pt")
    assert same(open_checkpoint(tmp_path / "file.pt"), {"weight": linear.weight, "bias": linear.bias})


def test_modules_that_hold_one_another_are_refused(tmp_path):
    chain = [nn.Module() for _ in range(40)]
    for above, below in itertools.pairwise(chain):
        above.left = above.right = below
    torch.save(chain[0], tmp_path / "many.pt")
    circle = nn.Module()
    circle._modules["self"] = circle
    torch.save(circle, tmp_path / "circle.pt")
    long, name = nn.Module(), "x" * 2000
    long._modules[name] = nn.Linear(1, 1)
    torch.save(long, tmp_path / "long.pt")
    for name in ("many.pt", "circle.pt", "long.pt"):
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            open_checkpoint(tmp_path / name)


def test_a_module_that_many_names_share_is_converted_once(tmp_path):
    """Else a thousand names in each of three nested dicts are a thousand million modules."""
    linear = nn.Linear(2, 2)
    inner = dict.fromkeys(range(9), linear)
    torch.save(dict.fromkeys(range(9), inner), tmp_path / "wide.pt")
    content = read_modules(tmp_path / "wide.pt").content
    assert len({id(value) for value in content.values()}) == len({id(value) for value in content[0].values()}) == 1
    assert same(content[8][8], linear.state_dict())


def test_the_number_of_modules_is_bounded_for_the_whole_file(tmp_path, monkeypatch):
    torch.save({name: nn.Linear(2, 2) for name in "abc"}, tmp_path / "three.pt")
    monkeypatch.setattr("src.pickles.modules.MAX_ENTRIES", 9)  # a module and two tensors each
    assert list(read_modules(tmp_path / "three.pt").content) == list("abc")
    monkeypatch.setattr("src.pickles.modules.MAX_ENTRIES", 8)
    with pytest.raises(pickle.UnpicklingError, match="more than 8"):
        read_modules(tmp_path / "three.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_of_modules_are_named(tmp_path, zipped):
    path = tmp_path / "truncated.pt"
    save_encoder(path, "src.modeling", _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=r"truncated\.pt (cannot be read|is empty|is neither safetensors nor a file of torch\.save)"
        ):
            open_checkpoint(path)
