"""What lies beside weights, and what of it a merged model gets."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints import companions
from src.checkpoints.companions import companions_of
from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from tests.helpers.processes import run_script


@pytest.fixture
def encoder(tmp_path):
    """A sentence encoder: a transformer, a pooling without weights, a layer with its own, and what else lies there."""
    folder = tmp_path / "encoder"
    for name in ("1_Pooling", "2_Dense", "original", "checkpoint-500", "assets", ".git", "many"):
        (folder / name).mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    save_file({"linear.weight": torch.ones(2, 2)}, folder / "2_Dense" / "model.safetensors")
    save_file({"w": torch.ones(2)}, folder / "original" / "consolidated.safetensors")
    torch.save({"w": torch.ones(2)}, folder / "checkpoint-500" / "optimizer.pt")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("config.json", "LICENSE", "1_Pooling/config.json", "2_Dense/config.json", "assets/vocab.txt", ".git/config",
                 "original/params.json", "model.gguf"):  # fmt: skip
        (folder / name).write_text("{}")
    for number in range(companions.MOST_FILES + 1):
        (folder / "many" / str(number)).touch()
    return folder


def test_what_a_model_needs_comes_along_and_the_rest_is_named(tmp_path, encoder):
    found = companions_of(encoder, [encoder / "model.safetensors"])
    assert set(found.files) == {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "LICENSE",
        "assets/vocab.txt",
        "config.json",
        "modules.json",
    }
    assert found.modules == ("2_Dense/model.safetensors",) and set(found.left) == {
        "checkpoint-500",
        "many",
        "model.gguf",
        "original",
    }
    found.copy_to(tmp_path / "copy")
    assert (tmp_path / "copy/assets/vocab.txt").read_text() == "{}"
    assert open_checkpoint(encoder).notes == [
        f"{encoder}: not merged are the weights in its sub-folders, 2_Dense/model.safetensors, checkpoint-500/optimizer.pt, "
        "original/consolidated.safetensors"
    ]


def test_a_merged_folder_loads_as_the_original_did(tmp_path, encoder):
    save_file({"w": torch.full((2,), 3.0)}, tmp_path / "a.safetensors")
    command = ("main.py", "model=files", "pretrained=encoder", "finetuned=[a.safetensors]", "specify_lambda=0.5", "output=out")
    for _ in range(2):  # the second replaces the first, copies included
        done = run_script(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "not merged are the weights in its sub-folders, 2_Dense/model.safetensors" in done.stdout
    assert "not copied from encoder: checkpoint-500, many, model.gguf, original" in done.stdout
    out = tmp_path / "out"
    assert load_file(out / "model.safetensors")["w"].tolist() == [2, 2]
    assert load_file(out / "2_Dense/model.safetensors").keys() == {"linear.weight"} and (out / "1_Pooling/config.json").exists()
    (out / "1_Pooling/notes.txt").write_text("mine")
    done = run_script(*command, cwd=tmp_path)
    assert done.returncode == 1 and "holds other files (1_Pooling/notes.txt)" in done.stderr


def test_links_are_copied_as_files_and_only_regular_ones_are_read(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (tmp_path / "blob").write_text("vocabulary")
    (folder / "tokenizer.json").symlink_to(tmp_path / "blob")
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    (folder / "device.txt").symlink_to("/dev/zero")
    (folder / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    with (folder / "large.txt").open("wb") as file:
        file.truncate(companions.LARGEST + 1)
    found = companions_of(folder)
    assert found.files == ("tokenizer.json",) and set(found.left) == {
        "device.txt",
        "elsewhere",
        "gone.json",
        "large.txt",
        "pipe.txt",
    }
    found.copy_to(tmp_path / "copy")
    copy = tmp_path / "copy" / "tokenizer.json"
    assert copy.read_text() == "vocabulary" and not copy.is_symlink()


def test_a_file_that_grows_while_it_is_copied_is_refused(tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text("x" * 100)
    found = companions_of(tmp_path)
    monkeypatch.setattr(companions, "LARGEST", 50)
    with pytest.raises(UserError, match=r"log\.txt has grown"):
        found.copy_to(tmp_path / "copy")
