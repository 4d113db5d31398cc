"""Files of statistics, ours and other programs': read by name and kind, or refused in a sentence."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import save_file

from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, GRAM_IN, GRAM_OUT, Statistic
from src.state_dict import digest
from src.statistics.collector import Sums
from src.statistics.files import Provenance, StatisticFile, open_statistics, provenance_of, save_statistic

WEIGHTS = {
    "a.weight": torch.randn(4, 6),
    "b.weight": torch.randn(4, 6),
    "square.weight": torch.randn(5, 5),
    "a.bias": torch.randn(4),
}


def sums(kind, draw=0):
    """A statistic of all weights that can have one, b's being a's."""
    torch.manual_seed(draw)
    if kind == FISHER_DIAG:
        return Sums(kind, {key: torch.rand_like(leaf) for key, leaf in WEIGHTS.items()}, dict.fromkeys(WEIGHTS, 2.0))
    if kind == FISHER_BLOCK:
        return Sums(kind, {"a.bias": torch.rand(4, 4)}, {"a.bias": 2.0})
    side = 1 if kind == GRAM_IN else 0
    names = ("a.weight", "square.weight")
    matrices = {key: torch.rand(WEIGHTS[key].shape[side], WEIGHTS[key].shape[side]) for key in names}
    return Sums(kind, matrices, dict.fromkeys(names, 3.0), {"b.weight": "a.weight"})


def write(path, kind, checkpoint="", draw=0):
    save_statistic(sums(kind, draw), path, Provenance(kind, checkpoint, {"task": "t"}))
    return path


@pytest.mark.parametrize("kind", [FISHER_DIAG, FISHER_BLOCK, GRAM_IN, GRAM_OUT])
def test_a_file_holds_each_mean_once_and_gives_it_to_all_that_share_it(tmp_path, kind):
    written, file = sums(kind), StatisticFile(write(tmp_path / "s.safetensors", kind), WEIGHTS)
    assert file.kind == kind and set(file) == {*written.sums, *written.aliases}
    for key in file:
        first = written.aliases.get(key, key)
        assert torch.equal(file[key], written.means[first]) and file.outline[key].shape == file[key].shape
        assert kind == FISHER_DIAG or torch.equal(file[key], file[key].T)
    size = (tmp_path / "s.safetensors").stat().st_size
    numbers = sum(leaf.numel() if kind == FISHER_DIAG else len(leaf) * (len(leaf) + 1) // 2 for leaf in written.sums.values())
    assert 4 * numbers < size < 4 * numbers + 1000
    assert provenance_of(tmp_path / "s.safetensors") == Provenance(kind, "", {"task": "t"})


def foreign(path, entries):
    save_file(entries, path)
    return path


def test_files_of_other_programs_are_read_by_the_names_of_modules_and_their_kind_by_shapes(tmp_path):
    cases = {
        GRAM_IN: {"a": torch.eye(6), "square": torch.eye(5)},
        GRAM_OUT: {"a.weight": torch.eye(4), "square": torch.eye(5)},
        FISHER_DIAG: {key: leaf.square() for key, leaf in WEIGHTS.items()},
        FISHER_BLOCK: {"a.bias": torch.eye(4)},
    }
    for kind, entries in cases.items():
        file = StatisticFile(foreign(tmp_path / "x.safetensors", entries), WEIGHTS)
        assert file.kind == kind and file.provenance is None
        assert {key.partition(".")[0] for key in file} == {key.partition(".")[0] for key in entries} and set(file) <= set(WEIGHTS)


def test_where_shapes_allow_several_kinds_the_name_decides_and_without_one_it_is_asked_for(tmp_path):
    square = {"square": torch.eye(5)}
    for kind in (FISHER_DIAG, GRAM_IN, GRAM_OUT):
        assert StatisticFile(foreign(tmp_path / f"x_{kind}.safetensors", square), WEIGHTS).kind == kind
    for name in ("x", f"{GRAM_IN}_{GRAM_OUT}"):
        path = foreign(tmp_path / f"{name}.safetensors", square)
        with pytest.raises(UserError, match=rf"nothing tells what {path} is: .*put one of fisher_diag, .* into its name"):
            StatisticFile(path, WEIGHTS)
    path = foreign(tmp_path / f"x_{GRAM_IN}.safetensors", {"a": torch.eye(3)})
    with pytest.raises(UserError, match=r"its a.weight has shape \(3, 3\), the parameter \(4, 6\)"):
        StatisticFile(path, WEIGHTS)
    path = foreign(tmp_path / "other.safetensors", {"z": torch.eye(3)})
    with pytest.raises(UserError, match=r"is of no parameter of these models: it has z"):
        StatisticFile(path, WEIGHTS)
    path = foreign(tmp_path / "twice.safetensors", {"a": torch.eye(6), "a.weight": torch.eye(6)})
    with pytest.raises(UserError, match="two statistics of one parameter, a"):
        StatisticFile(path, WEIGHTS)


def header_of(path, change):
    """Write a file with another header."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "deep facts": (lambda path: header_of(path, lambda header: header["__metadata__"].update(facts="[" * 10**5)), "provenance"),
    "deep aliases": (lambda path: header_of(path, lambda header: header["__metadata__"].update(aliases="[" * 10**5)), "aliases"),
    "aliases of lists": (lambda path: header_of(path, lambda header: header["__metadata__"].update(aliases='{"b": []}')), "does not hold"),
    "no aliases": (lambda path: header_of(path, lambda header: header["__metadata__"].update(aliases='"a"')), "does not hold"),
    "alias of nothing": (lambda path: header_of(path, lambda header: header["__metadata__"].update(aliases='{"b.weight": "c"}')), "does not hold"),
    "no triangle": (lambda path: save_file({"a.weight": torch.zeros(20)}, path, {"statistic": GRAM_IN}), "what no statistic is, in a.weight"),
    "a square": (lambda path: save_file({"a.weight": torch.zeros(6, 6)}, path, {"statistic": GRAM_IN}), "what no statistic is, in a.weight"),
    "integers": (lambda path: save_file({"a.bias": torch.ones(4, dtype=torch.int64)}, path, {"statistic": FISHER_DIAG}), "what no statistic is, in a.bias"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_hostile_files_end_in_a_sentence_that_names_them(tmp_path, damage):
    path = write(tmp_path / "s.safetensors", GRAM_IN)
    spoil, words = DAMAGES[damage]
    spoil(path)
    with pytest.raises(UserError, match=words) as error:
        open_statistics([path], {}, WEIGHTS)
    assert str(path) in str(error.value)


def test_a_huge_triangle_is_refused_by_its_shape_and_never_unpacked(tmp_path):
    """A sparse file can claim a matrix of 2^17 rows, 64 GiB, while it takes nothing on the disk. Not every machine maps it."""
    path, size = tmp_path / "s.safetensors", 2**17 * (2**17 + 1) // 2
    entry = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}
    encoded = json.dumps({"__metadata__": {"statistic": GRAM_IN}, "a.weight": entry}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + 4 * size)
    with pytest.raises(UserError, match=r"gram_in of t has shape \(131072, 131072\) in a.weight, whose own|cannot be mapped"):
        Statistic(inputs({GRAM_IN: {"t": StatisticFile(path, WEIGHTS)}}), GRAM_IN)


def inputs(statistics):
    return MergeInputs(WEIGHTS, {"t": WEIGHTS}, lambda key: None, lambda key: True, torch.device("cpu"), False, statistics)


def checkpoints(folder):
    """Two models by task."""
    found = {}
    for number, task in enumerate(("one", "two")):
        save_file({key: leaf + number for key, leaf in WEIGHTS.items()}, folder / f"{task}.safetensors")
        found[task] = open_checkpoint(folder / f"{task}.safetensors")
    return found


def test_files_of_a_kind_are_the_models_in_order(tmp_path):
    models = checkpoints(tmp_path)
    digests = {task: digest(model.items()) for task, model in models.items()}
    paths = {task: [write(tmp_path / f"{task}_{kind}.safetensors", kind, digests[task], number) for kind in (GRAM_IN, FISHER_DIAG)]
             for number, task in enumerate(models)}  # fmt: skip
    found = open_statistics([*paths["one"], *paths["two"]], models, WEIGHTS)
    assert set(found) == {GRAM_IN, FISHER_DIAG} and list(found[GRAM_IN]) == ["one", "two"]
    assert torch.equal(found[GRAM_IN]["two"]["a.weight"], sums(GRAM_IN, 1).means["a.weight"])
    with pytest.raises(UserError) as error:
        open_statistics([*paths["two"], *paths["one"]], models, WEIGHTS)
    assert len(error.value.problems) == 4
    assert re.search(r"two_gram_in.safetensors is of another model than .*one.safetensors \(one\)", str(error.value))
    with pytest.raises(UserError, match=r"1 file of fisher_diag .* for 2 models; give one for each"):
        open_statistics([paths["one"][0], *paths["two"]], models, WEIGHTS)
