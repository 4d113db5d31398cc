"""Packed masks, compact forms and the bundles they are written in."""

import json

import numpy as np
import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.bundles import PRETRAINED, SHARED, TASKS, bundle_size, open_bundle, save_bundle
from src.checkpoints.opening import open_all, open_checkpoint
from src.compact.form import Compact, masks_as_parts, parts_of
from src.compact.packing import gathered, masked, pack, packed_size, spread, unpack
from src.elementwise import add_vector
from src.errors import UserError
from src.experiments.storage import storage_of
from src.merging.engine.inputs import MergeInputs
from src.state_dict import byte_size
from src.task_vectors import TaskVector
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.processes import run_script

PER_TASK = ("tall_mask", "mag_masking", "TSVC", "emr", "individual")


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 2**18 + 3])
def test_bits_are_packed_as_numpy_packs_them(count):
    mask = torch.rand(3, count) < 0.4
    for pack_bits, unpack_bits in ((pack, unpack), (gathered, spread)):  # by numpy, and as other devices do
        packed = pack_bits(mask)
        assert torch.equal(pack_bits(mask[:, 1:].contiguous()[0]), pack_bits(mask[0, 1:]))
        assert torch.equal(pack_bits(mask[2]), packed[2])
        assert packed.shape == (3, packed_size(count)) and (packed.numpy() == np.packbits(mask.numpy(), axis=-1)).all()
        assert torch.equal(unpack_bits(packed, count), mask) and torch.equal(unpack_bits(packed[1], count), mask[1])
    values = torch.randn(count)
    assert torch.equal(masked(values, packed[0]), torch.where(mask[0], values, 0.0))


def test_a_mask_selects_from_the_flattened_entry():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert masked(values, pack(torch.tensor([True, False, False, True, True, False]))).tolist() == [[1, 0, 0], [4, 5, 0]]


def test_parts_come_back_from_one_mapping():
    outline = {"w": torch.empty(2, 4, device="meta")}
    masks = {task: {"w": pack(torch.rand(8) < 0.5)} for task in ("a", "a/b")}
    compact = Compact(outline, masks_as_parts(masks), {"w": torch.ones(2, 4)})
    again = Compact(outline, parts_of(compact.flattened(), ["a", "a/b"]), compact.shared)
    for task in masks:
        assert torch.equal(again.vector(task)["w"], compact.vector(task)["w"])
        assert torch.equal(again.masks()[task]["w"], masks[task]["w"])


def build(name, inputs, *options):
    config = compose_config([f"method={name}", *options])
    method = build_method(config)
    return method(inputs), dict.fromkeys(inputs.tasks, method.coefficients(len(inputs.tasks))[0])


def wide_models(tasks=3):
    """Large enough for a header to be small beside the entries."""
    pretrained, finetuned = tiny_models(tasks)
    draw = torch.Generator().manual_seed(5)
    pretrained["blocks.0.w"] = torch.randn(512, 301, generator=draw)
    for model in finetuned.values():
        model["blocks.0.w"] = pretrained["blocks.0.w"] + 0.1 * torch.randn(512, 301, generator=draw)
    return pretrained, finetuned


@pytest.mark.parametrize("name", PER_TASK)
def test_a_bundle_gives_back_every_tasks_model_exactly(name, tmp_path):
    models = wide_models()
    inputs = merge_inputs(models)
    family, choice = build(name, inputs)
    compact = family.compact(choice)
    facts = {"finetuned": dict.fromkeys(inputs.tasks, "digest")}
    written = save_bundle(compact, inputs.pretrained, tmp_path / "bundle", facts)
    assert written == sum(file.stat().st_size for file in (tmp_path / "bundle").iterdir())
    again, facts_read = open_bundle(tmp_path / "bundle")
    assert facts_read == facts and list(again.parts) == list(inputs.tasks)
    for task, vector in family(choice["task0"]).items():
        vector_read = TaskVector.from_bundle(tmp_path / "bundle", task)
        assert set(vector_read) == set(vector) and all(torch.equal(vector_read[key], vector[key]) for key in vector)
        model, expected = open_checkpoint(tmp_path / "bundle" / task), add_vector(inputs.pretrained, dict(vector))
        assert set(model) == set(expected) and all(torch.equal(model[key], expected[key]) for key in expected)
        assert model.outline["blocks.0.w"].shape == (512, 301)


@pytest.mark.parametrize("name", PER_TASK)
def test_a_bundle_takes_the_space_it_should(name, tmp_path):
    pretrained, _finetuned = models = wide_models(8)
    inputs = merge_inputs(models)
    family, choice = build(name, inputs)
    compact = family.compact(choice)
    written = save_bundle(compact, pretrained, tmp_path / "bundle", {"finetuned": {}})
    count = inputs.size
    if name == "TSVC":
        rank = 301 // 8
        numbers = rank * (512 + 301) + sum(
            leaf.numel() for key, leaf in inputs.outline.items() if inputs.changed(key) and key != "blocks.0.w"
        )
        bound = byte_size(pretrained) + 8 * 4 * numbers
    elif name == "individual":
        bound = byte_size(pretrained) + 8 * 4 * count
    else:
        bound = byte_size(pretrained) + 4 * count + 8 * count / 8
    assert written <= 1.02 * bound
    storage = storage_of(compact, pretrained, written)
    assert storage.bytes == written and storage.separate == 8 * byte_size(pretrained)
    assert storage.formula_bits / 8 == pytest.approx(written, rel=0.02)
    assert bundle_size(compact, pretrained) <= written


@pytest.mark.parametrize("fraction,exact", [(1, True), (0.9, False), (0.1, False)])
def test_all_triplets_are_the_finetuned_model_itself(fraction, exact):
    pretrained, finetuned = models = wide_models()
    family, _choice = build("TSVC", merge_inputs(models), f"method.rank_fraction={fraction}")
    vector = family(1.0)["task1"]
    move = finetuned["task1"]["blocks.0.w"] - pretrained["blocks.0.w"]
    assert torch.equal(vector["blocks.0.w"], move) == exact
    left, values, right = torch.linalg.svd(move.double(), full_matrices=False)
    rank = int(301 * fraction)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert (vector["blocks.0.w"] - expected).norm() <= 1e-5 * expected.norm()


def test_one_stack_serves_all_lambdas_and_tasks(monkeypatch):
    """Masks of the whole grid are made in one pass over the models."""
    inputs = merge_inputs(tiny_models())
    family, _ = build("tall_mask", inputs)
    passes, groups = [], []
    each, read = MergeInputs.each, MergeInputs._read
    monkeypatch.setattr(MergeInputs, "each", lambda self, key, visit: passes.append(key) or each(self, key, visit))
    monkeypatch.setattr(MergeInputs, "_read", lambda self, group, width: groups.append(group) or read(self, group, width))
    for coefficient in (0.2, 0.3, 0.4, 0.5, 0.6):
        for vector in family(coefficient).values():
            for key in vector:
                vector[key]
    changed = [key for key in inputs.outline if inputs.changed(key)]
    assert sorted(passes) == sorted(changed)  # for all masks
    assert groups == inputs._groups and [key for group in groups for key in group.keys] == changed  # for the sum


def test_a_bundle_is_written_and_merged_again_from_the_command_line(tmp_path):
    pretrained, finetuned = tiny_models(2)
    torch.save(pretrained, tmp_path / "base.pt")
    for name, model in finetuned.items():
        torch.save(model, tmp_path / f"{name}.pt")
    files = ("model=files", "pretrained=base.pt", "finetuned=[task0.pt,task1.pt]")
    bundle = ("method=tall_mask", "specify_lambda=0.3", "output_kind=bundle", "output=bundle/")
    done = run_script("main.py", *files, *bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {PRETRAINED, SHARED, TASKS}
    again = ("model=files", "pretrained=bundle/pretrained.safetensors", "finetuned=[bundle/task0,bundle/task1]")
    done = run_script("main.py", *again, "method=average", "output=mean.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    opened = open_all({name: tmp_path / "bundle" / name for name in finetuned} | {"mean": tmp_path / "mean.safetensors"})
    key = "blocks.0.w"
    torch.testing.assert_close(opened["mean"][key], (opened["task0"][key] + opened["task1"][key]) / 2)
    done = run_script("main.py", *files, *bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # replaces its own earlier result
    done = run_script("main.py", *files, "method=sum", *bundle[1:], cwd=tmp_path)
    assert done.returncode == 1 and "nothing to bundle" in done.stderr
    done = run_script("main.py", "model=files", "pretrained=base.pt", "finetuned=[bundle/task7]", "method=average",
                      "output=x.safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1 and "task0, task1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", [PRETRAINED, SHARED, TASKS])
def test_a_bundle_that_lacks_a_file_is_refused_by_name(missing, tmp_path):
    inputs = merge_inputs(tiny_models())
    family, choice = build("tall_mask", inputs)
    save_bundle(family.compact(choice), inputs.pretrained, tmp_path / "bundle", {"finetuned": dict.fromkeys(inputs.tasks, "")})
    (tmp_path / "bundle" / missing).unlink()
    with pytest.raises(UserError, match=missing if missing != TASKS else "no checkpoint"):
        open_checkpoint(tmp_path / "bundle" / "task0")


@pytest.mark.parametrize("cut", [PRETRAINED, SHARED, TASKS])
def test_a_bundle_with_a_truncated_file_is_refused_by_that_file(cut, tmp_path):
    inputs = merge_inputs(tiny_models())
    family, choice = build("emr", inputs)
    save_bundle(family.compact(choice), inputs.pretrained, tmp_path / "bundle", {"finetuned": dict.fromkeys(inputs.tasks, "")})
    file = tmp_path / "bundle" / cut
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=rf"{cut} cannot be read .*truncated"):
        open_checkpoint(tmp_path / "bundle" / "task0")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a mask file nor a bundle"):
        open_bundle(tmp_path)
    (tmp_path / TASKS).write_text(json.dumps({}))
    with pytest.raises(UserError):
        open_checkpoint(tmp_path / "cars")
