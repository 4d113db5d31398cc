"""model=files: any state dicts, merged without data."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.opening import open_checkpoint
from src.task_vectors import TaskVector
from tests.conftest import tiny_models
from tests.helpers.processes import run_script


def written(folder, tasks=2):
    pretrained, finetuned = tiny_models(tasks)
    save_file(pretrained, folder / "base.safetensors")
    for name, model in finetuned.items():
        torch.save(model, folder / f"{name}.pt")
    return pretrained, finetuned


def merge(folder, *options, finetuned="[task0.pt,task1.pt]", output="merged.safetensors"):
    return run_script("main.py", "model=files", "pretrained=base.safetensors", f"finetuned={finetuned}",
                      f"output={output}", *options, cwd=folder)  # fmt: skip


def test_a_model_is_merged_and_integers_are_copied(tmp_path):
    pretrained, finetuned = written(tmp_path)
    done = merge(tmp_path, "method=average")
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "merged.safetensors")
    assert torch.equal(merged["positions"], pretrained["positions"])
    mean = (finetuned["task0"]["head.bias"] + finetuned["task1"]["head.bias"]) / 2
    torch.testing.assert_close(merged["head.bias"], mean)


def test_lines_reads_depth_from_names_and_tasks_may_be_named(tmp_path):
    pretrained, finetuned = written(tmp_path)
    options = (
        "method=single_task",
        "method.task_index=1",
        "method.apply_lines=true",
        "specify_lambda=0.5",
        "output_kind=task_vector",
    )
    done = merge(tmp_path, *options, finetuned="{cars: task1.pt, dtd: task0.pt}", output="out")
    assert done.returncode == 0, done.stderr
    vector = load_file(tmp_path / "out" / "model.safetensors")
    move = finetuned["task0"]["blocks.0.w"] - pretrained["blocks.0.w"]
    torch.testing.assert_close(vector["blocks.0.w"], 0.5 * move)
    deepest = finetuned["task0"]["blocks.2.w"] - pretrained["blocks.2.w"]
    torch.testing.assert_close(vector["blocks.2.w"], deepest)
    assert "positions" not in vector and not vector["frozen.weight"].any()


def test_sharded_models_are_written_shard_by_shard(tmp_path):
    pretrained, finetuned = tiny_models(2)
    pretrained = {key: leaf.bfloat16() if leaf.is_floating_point() else leaf for key, leaf in pretrained.items()}
    for name, model in (("base", pretrained), *finetuned.items()):
        (tmp_path / name).mkdir()
        weight_map = {key: f"part{number % 2}.safetensors" for number, key in enumerate(model)}
        for part in set(weight_map.values()):
            save_file({key: leaf.to(pretrained[key].dtype) for key, leaf in model.items() if weight_map[key] == part},
                      tmp_path / name / part)  # fmt: skip
        (tmp_path / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in ("tokenizer.json", "modeling_own.py", "LICENSE", "source.spm", "pytorch_model.bin", "model.gguf", ".hidden"):
        (tmp_path / "base" / name).write_text("{}")
    done = run_script("main.py", "model=files", "pretrained=base", "finetuned=[task0,task1]", "specify_lambda=0.3",
                      "output=merged", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {
        "part0.safetensors",
        "part1.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "modeling_own.py",
        "LICENSE",
        "source.spm",
    }
    merged = load_file(tmp_path / "merged" / "part0.safetensors")
    assert merged["embed.weight"].dtype == torch.bfloat16


def test_memory_does_not_grow_with_the_number_of_models(tmp_path):
    """Peak anonymous memory of merging 4 and 20 models differs by less than one stack of the largest parameter."""
    import subprocess
    import sys

    from tests.helpers.processes import ROOT

    side = 1024
    base = {f"blocks.{i}.w": torch.randn(side, side) for i in range(4)}
    save_file(base, tmp_path / "base.safetensors")
    for number in range(20):
        save_file({key: leaf + 0.01 * torch.randn(1) for key, leaf in base.items()}, tmp_path / f"task{number}.safetensors")
    script = (
        "import sys, torch\n"
        "from command_line.build import build_method\n"
        "from command_line.config import compose_config\n"
        "from pathlib import Path\n"
        "from benchmarks.memory import Peak\n"
        "from src.checkpoints.opening import open_all\n"
        "from src.merging.engine.inputs import MergeInputs\n"
        "from src.checkpoints.writing import save_file\n"
        "from src.elementwise import add_vector\n"
        "folder, tasks = Path(sys.argv[1]), int(sys.argv[2])\n"
        "method = build_method(compose_config(['method=ties']))\n"
        "torch.ones(8, 8).sum(0)\n"
        "with Peak() as peak:\n"
        "    opened = open_all({n: folder / f'{n}.safetensors' for n in ('base', *(f'task{i}' for i in range(tasks)))})\n"
        "    base = opened.pop('base')\n"
        "    inputs = MergeInputs(base, opened, lambda key: None, lambda key: True, torch.device('cpu'), keep=False)\n"
        "    save_file(add_vector(base, method(inputs)(1.0)['task0']), folder / f'merged{tasks}.safetensors')\n"
        "print(peak.above)\n"
    )
    peaks = {}
    for tasks in (4, 20):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(tasks)], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        peaks[tasks] = int(done.stdout)
    one_stack = 20 * side * side * 4
    assert abs(peaks[20] - peaks[4]) < one_stack, peaks


def test_integers_that_fine_tuning_changed_are_named_and_left(tmp_path):
    base = {"w": torch.zeros(3), "seen": torch.tensor(1), "ids": torch.arange(3)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({**base, "w": torch.ones(3), "seen": torch.tensor(7)}, tmp_path / "a.safetensors")
    done = run_script("main.py", "model=files", "pretrained=base.safetensors", "finetuned=[a.safetensors]", "specify_lambda=1",
                      "output=m.safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0 and "though fine-tuning changed them: seen\n" in done.stdout, done.stderr
    merged = load_file(tmp_path / "m.safetensors")
    assert merged["seen"] == 1 and merged["w"].tolist() == [1, 1, 1]


def test_eight_bit_weights_that_hold_nan_are_named(tmp_path):
    weights = torch.ones(8, 8).to(torch.float8_e4m3fn)
    broken = weights.clone()
    broken.view(torch.uint8)[0, 0] = 0x7F
    for name, leaf in (("base", weights), ("a", broken)):
        save_file({"w": leaf}, tmp_path / f"{name}.safetensors")
    done = run_script("main.py", "model=files", "pretrained=base.safetensors", "finetuned=[a.safetensors]", "specify_lambda=1",
                      "output=m.safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1 and "w holds NaN or infinite values in a" in done.stderr, done.stderr


@pytest.mark.parametrize("method", ["sum", "ties", "TSVM", "iso_c"])
def test_complex_entries_are_merged_as_real_and_imaginary_parts(tmp_path, method):
    base = {
        "w": torch.randn(4, 4),
        "spectral": torch.randn(4, 3, dtype=torch.complex64),
        "same": torch.randn(2, dtype=torch.complex64),
    }
    for name in ("base", "a", "b"):
        torch.save({key: leaf if key == "same" or name == "base" else leaf + torch.randn_like(leaf) for key, leaf in base.items()},
                   tmp_path / f"{name}.pt")  # fmt: skip
    for kind in ("model", "task_vector"):
        done = run_script("main.py", "model=files", "pretrained=base.pt", "finetuned=[a.pt,b.pt]", "specify_lambda=0.3",
                          f"method={method}", f"output={kind}.safetensors", f"output_kind={kind}", cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
    merged, vector = (load_file(tmp_path / f"{kind}.safetensors") for kind in ("model", "task_vector"))
    assert merged["spectral"].dtype == vector["spectral"].dtype == torch.complex64 and torch.equal(merged["same"], base["same"])
    assert torch.allclose(merged["spectral"], base["spectral"] + vector["spectral"]) and vector["spectral"].abs().sum() > 0
    if method == "sum":
        changes = sum(torch.load(tmp_path / f"{name}.pt")["spectral"] - base["spectral"] for name in "ab")
        assert torch.allclose(vector["spectral"], 0.3 * changes, atol=1e-6)


def test_a_bundle_of_complex_entries_is_rebuilt_as_they_were(tmp_path):
    base = {"w": torch.randn(4, 4), "spectral": torch.randn(4, 3, dtype=torch.complex64)}
    for name in ("base", "a", "b"):
        torch.save(
            {key: leaf if name == "base" else leaf + torch.randn_like(leaf) for key, leaf in base.items()},
            tmp_path / f"{name}.pt",
        )
    done = run_script("main.py", "model=files", "pretrained=base.pt", "finetuned=[a.pt,b.pt]", "specify_lambda=0.4",
                      "method=tall_mask", "output=bundle", "output_kind=bundle", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rebuilt, vector = open_checkpoint(tmp_path / "bundle" / "a"), TaskVector.from_bundle(tmp_path / "bundle", "a")
    assert rebuilt["spectral"].dtype == vector["spectral"].dtype == torch.complex64 and rebuilt["spectral"].shape == (4, 3)
    assert (
        torch.allclose(rebuilt["spectral"] - base["spectral"], vector["spectral"], atol=1e-6) and vector["spectral"].abs().any()
    )


def test_checkpoints_of_a_trainer_are_merged_and_what_was_read_is_said(tmp_path):
    base = {"l.0.w": torch.randn(3, 3), "l.0.b": torch.randn(3)}
    tuned = {key: leaf + 1 for key, leaf in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    wrapped = {f"module.{key}": leaf for key, leaf in tuned.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "state_dict_ema": {f"module.{key}": leaf for key, leaf in base.items()}},
               tmp_path / "last.pt")  # fmt: skip
    done = run_script("main.py", "model=files", "pretrained=base.safetensors", "finetuned=[last.pt,last.pt@ema]", "specify_lambda=1",
                      "output=m.safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "m.safetensors")
    assert all(torch.allclose(merged[key], tuned[key]) for key in base)
    lines = done.stdout.splitlines()
    assert "last.pt holds several models: state_dict is read; to read another, give last.pt@state_dict_ema" in lines
    assert "last.pt: read without regard to module in names, which wrappers add" in lines


def test_a_file_that_is_given_twice_is_noted(tmp_path):
    written(tmp_path)
    (tmp_path / "link.pt").symlink_to("task0.pt")
    (tmp_path / "hard.pt").hardlink_to(tmp_path / "task0.pt")
    models = "{a: task0.pt, b: link.pt, c: hard.pt, d: task1.pt, e: base.safetensors}"
    done = merge(tmp_path, "method=sum", "specify_lambda=1.0", finetuned=models)
    assert done.returncode == 0, done.stderr
    folder = tmp_path.resolve()
    assert [line.replace(str(folder) + "/", "").replace(str(tmp_path) + "/", "") for line in done.stdout.splitlines()[:3]] == [
        "b is the same file as a (link.pt): it counts once more",
        "c is the same file as a (hard.pt): it counts once more",
        "e is the pre-trained model itself (base.safetensors): its task vector is zero",
    ]
    assert "5 models merged" in done.stdout
    assert merge(tmp_path, "method=average", finetuned="[task0.pt]").stdout.count("1 model merged") == 1
