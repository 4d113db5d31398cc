import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.opening import open_all, open_checkpoint, repetitions
from src.checkpoints.writing import check_target, save_by_task, save_folder
from src.checkpoints.writing import save_file as stream_file
from src.errors import UserError
from src.state_dict import Lazy, byte_size
from src.task_vectors import TaskVector

TREE = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b": torch.ones(2, dtype=torch.bfloat16),
    "n": torch.arange(3),
    "s": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left)


def sharded(folder, tree, suffix="safetensors"):
    folder.mkdir()
    weight_map = {}
    for number, key in enumerate(tree):
        name = f"part-{number}.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)({key: tree[key]}, folder / name)
        weight_map[key] = name
    (folder / f"model.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_every_form_reads_the_same(tmp_path):
    save_file(TREE, tmp_path / "one.safetensors")
    torch.save(TREE, tmp_path / "one.pt")
    torch.save(TREE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": TREE, "epoch": 3}, tmp_path / "wrapped.ckpt")
    folder = sharded(tmp_path / "shards", TREE)
    pickled = sharded(tmp_path / "pickled", TREE, "bin")
    (tmp_path / "alone").mkdir()
    save_file(TREE, tmp_path / "alone" / "model.safetensors")
    forms = ["one.safetensors", "one.pt", "old.pt", "wrapped.ckpt", "shards", "pickled", "alone"]
    for form in forms:
        assert same(dict(open_checkpoint(tmp_path / form)), TREE), form
    assert same(dict(open_checkpoint(folder / "model.safetensors.index.json")), TREE)
    assert pickled.name == "pickled"


def test_unreadable_files_are_refused_by_name_all_at_once(tmp_path):
    save_file(TREE, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-7])
    torch.save(TREE, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:300])
    (tmp_path / "note.txt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.ones(1), "step": 3}, tmp_path / "step.pt")
    folder = sharded(tmp_path / "shards", TREE)
    (folder / "part-1.safetensors").unlink()
    paths = {name: tmp_path / name for name in ("cut.safetensors", "cut.pt", "note.txt", "list.pt", "step.pt", "shards", "no.pt")}
    with pytest.raises(UserError) as excinfo:
        open_all(paths)
    assert len(excinfo.value.problems) == len(paths)
    for name, problem in zip(paths, excinfo.value.problems):
        assert name in problem, problem
    assert "part-1.safetensors" in excinfo.value.problems[5] and "step" in excinfo.value.problems[4]


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "trap": Trap()}, "trap.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pt", "bare.pt"):
        with pytest.raises(UserError, match=name):
            open_checkpoint(name)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(UserError, match=r"io\.open"):
        open_checkpoint("trap.pt")


def test_what_is_written_as_a_stream_the_library_reads(tmp_path):
    alive = []

    def make(key):
        alive.append(key)
        return TREE[key]

    path = tmp_path / "deep" / "out.safetensors"
    stream_file(Lazy(TREE, make), path, {"kind": "test"})
    assert same(load_file(path), TREE) and alive == list(TREE)
    assert [file.name for file in path.parent.iterdir()] == ["out.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "out.safetensors"
    stream_file(TREE, path)
    before = path.read_bytes()

    def fail(key):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        stream_file(Lazy(TREE, fail), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_sharded_like_its_model_and_keeps_its_small_files(tmp_path):
    source = sharded(tmp_path / "model", TREE, "bin")
    (source / "config.json").write_text("{}")
    like = open_checkpoint(source)
    for _ in range(2):  # a second result replaces the first
        save_folder(dict(like), tmp_path / "out", like)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        *(f"part-{i}.safetensors" for i in range(len(TREE))),
        "config.json",
        "model.safetensors.index.json",
    }
    assert same(dict(open_checkpoint(tmp_path / "out")), TREE)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == byte_size(TREE)


def test_a_folder_of_one_file_a_task_appears_whole(tmp_path):
    for _ in range(2):
        save_by_task({"cars": TREE, "dtd": TREE}, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["cars.safetensors", "dtd.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_outputs_that_would_destroy_something_are_refused_before_any_work(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "model").mkdir()
    save_file(TREE, tmp_path / "model" / "model.safetensors")  # somebody else's, without our mark
    (tmp_path / "file").write_text("a file")
    save_folder(TREE, tmp_path / "earlier", TREE)
    stream_file(TREE, tmp_path / "several" / "one.safetensors")  # an output of its own, and not of a folder
    stream_file(TREE, tmp_path / "digits.safetensors", {"made_from": "{}"})  # fine-tuned here, and no output of a merge
    source = tmp_path / "model" / "model.safetensors"
    for path, as_folder, word in (
        ("home", True, "thesis"), ("model", True, "input"), ("file", True, "is a file"), ("merged.pt", True, "safetensors"),
        ("several", True, "one.safetensors"), ("model/new.safetensors", False, "input"),
        ("file", False, "not written as an output"), ("digits.safetensors", False, "not written as an output"),
        ("model", False, "folder"), ("model/model.safetensors", False, "input"), ("model/deeper", True, "input"), (".", True, "input"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=word):
            check_target(tmp_path / path, as_folder, [source, source.parent], 10)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_target(tmp_path / "model", True, [], 10)
    check_target(tmp_path / "earlier", True, [source], 10)
    check_target(tmp_path / "new", True, [source], 10)
    check_target(tmp_path / "earlier" / "model.safetensors", False, [source], 10)
    with pytest.raises(UserError, match="free"):
        check_target(tmp_path / "new", True, [], 2**60)


def test_a_vector_is_computed_once_when_it_is_saved(tmp_path):
    made = []
    vector = TaskVector.of(Lazy({"a": TREE["a"], "s": TREE["s"]}, lambda key: made.append(key) or TREE[key]))
    save_folder(vector, tmp_path / "out", TREE)
    assert made == ["a", "s"]


def test_folders_of_the_hub_are_read_as_they_lie(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(TREE, whole / "model.safetensors")
    (whole / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "not-here.bin"}}))
    assert same(dict(open_checkpoint(whole)), TREE)
    trained = tmp_path / "trained"
    trained.mkdir()
    torch.save(TREE, trained / "pytorch_model.bin")
    torch.save(TREE, trained / "training_args.bin")
    assert same(dict(open_checkpoint(trained)), TREE)
    (whole / "broken.index.json").write_text(json.dumps({"weight_map": {"a": 1}}))
    with pytest.raises(UserError, match="broken"):
        open_checkpoint(whole / "broken.index.json")


def indexed(folder, shards, weight_map, name="model.safetensors.index.json"):
    folder.mkdir(exist_ok=True)
    for shard, entries in shards.items():
        save_file({key: torch.full((2,), float(value)) for key, value in entries.items()}, folder / shard)
    (folder / name).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_an_index_says_which_shard_each_key_is_read_from(tmp_path):
    shards = {"a.safetensors": {"w": 1, "u": 2}, "b.safetensors": {"w": 3, "v": 4, "old": 5}}
    table = {"w": "a.safetensors", "v": "b.safetensors", "u": "a.safetensors"}
    opened = open_checkpoint(indexed(tmp_path / "model", shards, table))
    assert {key: float(leaf[0]) for key, leaf in opened.items()} == {"w": 1, "v": 4, "u": 2}
    assert opened.shard_of == table and set(opened.outline) == set(table)
    del shards["a.safetensors"]["u"], shards["b.safetensors"]["v"]
    with pytest.raises(UserError, match=r"a\.safetensors lacks u, which .* says it holds") as excinfo:
        open_checkpoint(indexed(tmp_path / "lacking", shards, table))
    assert len(excinfo.value.problems) == 2 and "b.safetensors lacks " in excinfo.value.problems[0]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/tmp/secret.safetensors", "deeper/secret.safetensors"])
def test_an_index_names_no_file_of_another_folder(tmp_path, name):
    path = tmp_path / "model" / name
    if name[0] != "/":
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(TREE, path)
    with pytest.raises(UserError, match=r"names files of other folders.*secret"):
        open_checkpoint(indexed(tmp_path / "model", {}, {"a": name}))


def test_of_several_indices_the_usual_one_is_meant_and_none_is_guessed(tmp_path):
    folder = tmp_path / "model"
    for number, variant in enumerate(("fp16", "ema")):
        shard = f"{variant}.safetensors"
        indexed(folder, {shard: {"a": number}}, {"a": shard}, f"model.{variant}.safetensors.index.json")
    with pytest.raises(UserError, match=r"several indices of shards \(model\.ema.*model\.fp16.*name the file you mean"):
        open_checkpoint(folder)
    indexed(folder, {"part.safetensors": {"a": 7}}, {"a": "part.safetensors"})
    assert open_checkpoint(folder)["a"][0] == 7


def test_parameters_that_require_gradients_are_read_as_tensors(tmp_path):
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.pt")
    assert not open_checkpoint(tmp_path / "a.pt")["a"].requires_grad


def test_a_dtype_the_format_has_not_is_named(tmp_path):
    with pytest.raises(UserError, match="complex128"):
        stream_file({"a": torch.ones(1, dtype=torch.complex128)}, tmp_path / "a.safetensors")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="free"):
        stream_file(TREE, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


SEVERAL = {
    "last.pt": {
        "state_dict": {"a": torch.ones(2)},
        "state_dict_ema": {"a": torch.zeros(2)},
        "optimizer": {"state": {0: torch.ones(1)}},
    },
    "yolo.pt": {"model": {"state_dict": {"a": torch.ones(2)}, "ema": {"a": torch.zeros(2)}}},
    "step.pt": {"step": torch.tensor(3), "model": {"a": torch.ones(2)}, "model_ema": {"a": torch.zeros(2)}},
    "deit.pth": {"module": {"a": torch.ones(2)}, "ema": {"module": {"a": torch.zeros(2)}}},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_models_in_a_file_the_usual_one_is_read_and_said(tmp_path, name):
    path = tmp_path / name
    torch.save(SEVERAL[name], path)
    usual = open_checkpoint(path)
    assert usual["a"].tolist() == [1, 1] and usual.files == [path]
    (note,) = usual.notes
    assert "holds several models" in note and "ema" in note
    chosen = note.split("give ")[1].split(", ")[0]  # as the note spells it
    for spelling in (chosen, f"{path}@ema"):
        assert open_checkpoint(spelling)["a"].tolist() == [0, 0] and not open_checkpoint(spelling).notes, spelling


def test_where_no_model_is_the_usual_one_the_parts_are_named(tmp_path):
    torch.save({"student": {"a": torch.ones(2)}, "teacher": {"a": torch.zeros(2)}, "epoch": 3}, tmp_path / "dino.pth")
    with pytest.raises(UserError, match=r"several models; name one of .*dino\.pth@student, .*dino\.pth@teacher"):
        open_checkpoint(tmp_path / "dino.pth")
    assert open_checkpoint(tmp_path / "dino.pth@teacher")["a"].tolist() == [0, 0]
    with pytest.raises(UserError, match=r"no part called tutor; there is .*@student"):
        open_checkpoint(tmp_path / "dino.pth@tutor")
    torch.save({"net": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "one.pth")
    assert open_checkpoint(tmp_path / "one.pth")["a"].tolist() == [1, 1]


def test_a_part_of_flat_names_is_their_prefix(tmp_path):
    tree = {"model.w": torch.ones(1), "ema_model.w": torch.zeros(1)}
    save_file(tree, tmp_path / "a.safetensors")
    torch.save(tree, tmp_path / "a.pt")
    sharded(tmp_path / "a", tree)
    for name in ("a.safetensors", "a.pt", "a"):
        part = open_checkpoint(tmp_path / f"{name}@ema_model")
        assert list(part) == ["w"] and part["w"].tolist() == [0], name
        with pytest.raises(UserError, match=r"no (names begin with|part called) best"):
            open_checkpoint(tmp_path / f"{name}@best")


def test_a_file_whose_name_has_an_at_is_that_file(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "me@home")
    assert open_checkpoint(tmp_path / "me@home")["w"] == 1


def test_views_are_what_the_library_reads(tmp_path):
    tree = {
        str(dtype): torch.randint(0, 100, (3, 2)).to(dtype)
        for dtype in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.complex64,
            torch.int64,
            torch.int8,
            torch.uint16,
            torch.bool,
        )
    }
    tree |= {"8 bits": torch.ones(5).to(torch.float8_e5m2), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    save_file(tree, tmp_path / "a.safetensors")
    assert same(dict(open_checkpoint(tmp_path / "a.safetensors")), load_file(tmp_path / "a.safetensors"))
    header, values = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode(), torch.arange(3.0)
    while (8 + len(header)) % 4 == 0:
        header += b" "
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    assert torch.equal(open_checkpoint(tmp_path / "b.safetensors")["w"], values)  # which is not aligned


def test_what_is_written_to_a_view_does_not_reach_the_file(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    open_checkpoint(tmp_path / "a.safetensors")["w"].fill_(7)
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [0, 0, 0]


def test_models_of_one_file_are_told_apart_by_their_parts(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.pt").symlink_to("a.pt")
    path = {name: tmp_path / name for name in ("a.pt", "b.pt", "link.pt", "a.pt@ema", "link.pt@ema", "bundle/cars", "bundle/dtd")}
    assert repetitions(path["b.pt"], {name: path[name] for name in ("a.pt", "a.pt@ema", "bundle/cars", "bundle/dtd")}) == []
    assert [note.split(" (")[0] for note in repetitions(path["a.pt"], path)] == [
        "a.pt is the pre-trained model itself",
        "link.pt is the pre-trained model itself",
        "link.pt@ema is the same file as a.pt@ema",
    ]
    assert repetitions(None, {"x": path["b.pt"]}) == []
