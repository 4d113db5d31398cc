"""What a conversion holds of its source, and what --remove therefore leaves where it is."""

import json
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.conversion import convert, converted_path, not_converted, pickled_models
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import metadata_of
from src.errors import UserError
from tests.helpers.processes import run_script

A, B = {"w": torch.randn(3, 3)}, {"v": torch.randn(2)}
MOMENTS = {"state": {0: {"exp_avg": torch.randn(3, 3)}}, "param_groups": [{"lr": 0.1}]}
HOLDING_MORE = {
    "timm": ({"epoch": 3, "state_dict": A, "state_dict_ema": B, "optimizer": MOMENTS}, ["state_dict_ema", "optimizer"]),
    "open_clip": ({"epoch": 5, "name": "run", "state_dict": A, "optimizer": MOMENTS}, ["optimizer"]),
    "DeiT": ({"model": A, "model_ema": B, "optimizer": MOMENTS, "step": 5}, ["model_ema", "optimizer"]),
    "DeepSpeed": ({"module": A, "lr_scheduler": {"last": [1]}}, ["lr_scheduler"]),
    "nested": ({"model": {"state_dict": A, "ema": B}}, ["model.ema"]),
    "random state": ({"state_dict": A, "rng": torch.zeros(4, dtype=torch.uint8)}, ["rng"]),
}


@pytest.mark.parametrize("kind", HOLDING_MORE)
def test_an_original_that_holds_more_is_kept(tmp_path, kind):
    content, lacking = HOLDING_MORE[kind]
    source, target = tmp_path / "last.pt", tmp_path / "last.safetensors"
    torch.save(content, source)
    assert convert(source, target) == [target] and torch.equal(load_file(target)["w"], A["w"])
    assert sorted(not_converted(source, target)) == sorted(lacking)
    done = run_script("convert_checkpoints.py", str(tmp_path), "--remove", cwd=tmp_path)
    assert done.returncode == 1 and source.exists() and "removed" not in done.stdout
    assert "last.pt is kept" in done.stderr and all(name in done.stderr for name in lacking)


def test_a_file_of_several_models_is_named_with_what_reads_one(tmp_path):
    torch.save({"student": A, "teacher": B}, tmp_path / "dino.pt")
    with pytest.raises(
        UserError, match=r"not converted.*several models; give main.py one of them: .*dino\.pt@student, .*@teacher$"
    ):
        convert(tmp_path / "dino.pt", tmp_path / "dino.safetensors")
    assert not (tmp_path / "dino.safetensors").exists()


def module(**attributes):
    net = torch.nn.Linear(2, 2)
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def with_buffer():
    net = module()
    net.register_buffer("cache", torch.ones(2), persistent=False)
    return net


def with_attribute(value):
    value.ema = {"w": torch.ones(2)}
    return value


MORE_THAN_STATE = {
    "an attribute of a module": (lambda: module(ema={"w": torch.ones(2)}), "ema"),
    "a list of modules": (lambda: module(teachers=[module()]), "teachers"),
    "an attribute of an inner module": (lambda: torch.nn.Sequential(module(best=torch.ones(2))), "0.best"),
    "a buffer that is not saved": (with_buffer, "cache"),
    "an attribute of a state dict": (lambda: with_attribute(OrderedDict(A)), "the attribute ema"),
    "an attribute of a parameter": (
        lambda: {"p": with_attribute(torch.nn.Parameter(torch.ones(2)))},
        "the attribute ema of a tensor",
    ),
}


@pytest.mark.parametrize("kind", MORE_THAN_STATE)
def test_what_a_state_dict_has_not_keeps_the_original(tmp_path, kind):
    make, name = MORE_THAN_STATE[kind]
    source, target = tmp_path / "net.pt", tmp_path / "net.safetensors"
    torch.save(make(), source)
    convert(source, target)
    assert not_converted(source, target) == [name]


def test_a_program_and_other_members_of_an_archive_keep_the_original(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module()), tmp_path / "script.pt")
    torch.save(A, tmp_path / "extra.pt")
    with zipfile.ZipFile(tmp_path / "extra.pt", "a") as archive:
        archive.writestr("extra/optimizer.bin", b"moments")
    for name, lacking in (("script", "its program (TorchScript)"), ("extra", "extra/optimizer.bin")):
        source, target = tmp_path / f"{name}.pt", tmp_path / f"{name}.safetensors"
        convert(source, target)
        assert not_converted(source, target) == [lacking]


def test_numbers_and_texts_beside_weights_come_along(tmp_path):
    source, target = tmp_path / "a.ckpt", tmp_path / "a.safetensors"
    torch.save({"state_dict": A, "epoch": 7, "arch": "vit", "best": None}, source)
    convert(source, target)
    assert json.loads(metadata_of(target)["converted_with"]) == {"epoch": 7, "arch": "vit", "best": None}
    assert not_converted(source, target) == []


def sharded(folder):
    folder.mkdir(parents=True)
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for name, tree in zip(names, (A, B)):
        torch.save(tree, folder / name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"w": names[0], "v": names[1]}}))
    return index


def test_shards_and_their_index_are_one_model(tmp_path):
    index = sharded(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert pickled_models(tmp_path) == [index]
    done = run_script("convert_checkpoints.py", str(tmp_path), "--remove", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" removed") == 3
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    opened = open_checkpoint(tmp_path / "model")
    assert set(opened) == {"w", "v"} and torch.equal(opened["w"], A["w"]) and torch.equal(opened["v"], B["v"])


def test_no_shard_is_removed_where_another_cannot_be_converted(tmp_path):
    index = sharded(tmp_path / "model")
    broken = index.with_name("pytorch_model-00002-of-00002.bin")
    broken.write_bytes(broken.read_bytes()[:200])
    before = sorted(path.name for path in index.parent.iterdir())
    done = run_script("convert_checkpoints.py", str(tmp_path), "--remove", cwd=tmp_path)
    assert done.returncode == 1 and "removed" not in done.stdout and broken.name in done.stderr
    assert set(before) <= {path.name for path in index.parent.iterdir()}
    broken.unlink()
    assert pickled_models(tmp_path) == [index]  # the other shard is no model of its own
    with pytest.raises(UserError, match="not beside it"):
        convert(index, converted_path(index, index.parent))


def test_a_conversion_has_the_name_that_libraries_look_for(tmp_path):
    names = {
        "pytorch_model.bin": "model.safetensors",
        "pytorch_model-00001-of-00002.bin": "model-00001-of-00002.safetensors",
        "adapter_model.bin": "adapter_model.safetensors",
        "diffusion_pytorch_model.bin": "diffusion_pytorch_model.safetensors",
        "nonlinear_finetuned.pt": "nonlinear_finetuned.safetensors",
        "pytorch_model.bin.index.json": "model.safetensors.index.json",
    }
    assert {name: converted_path(tmp_path / name, tmp_path).name for name in names} == names


def test_safetensors_of_the_same_name_are_not_replaced(tmp_path):
    torch.save(A, tmp_path / "pytorch_model.bin")
    save_file(A, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    done = run_script("convert_checkpoints.py", str(tmp_path), "--remove", cwd=tmp_path)
    assert done.returncode == 1 and "was not made from" in done.stderr and (tmp_path / "pytorch_model.bin").exists()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_adapter_is_converted_and_stays_one(tmp_path):
    torch.save({"base_model.model.q.lora_A.weight": torch.ones(2, 4)}, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text("{}")
    done = run_script("convert_checkpoints.py", str(tmp_path), "--remove", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
