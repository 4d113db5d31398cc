import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints import open_all, open_checkpoint
from src.errors import UserError
from src.saving import save_by_task, save_folder, size_of
from src.saving import save_file as stream_file
from src.state_dict import Lazy

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
    with pytest.raises(UserError) as caught:
        open_all(paths)
    assert len(caught.value.problems) == len(paths)
    for name, problem in zip(paths, caught.value.problems):
        assert name in problem, problem
    assert "part-1.safetensors" in caught.value.problems[5] and "step" in caught.value.problems[4]


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
    assert index["metadata"]["total_size"] == size_of(TREE)


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        save_by_task({"cars": TREE}, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").exists()
    save_by_task({"cars": TREE, "dtd": TREE}, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["cars.safetensors", "dtd.safetensors"]


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="free"):
        stream_file(TREE, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
