"""finetune.py as users and clusters call it: flags, several processes, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.checkpoints.reading import metadata_of
from src.checkpoints.writing import save_file as stream_file
from tests.helpers.processes import ROOT, run_script


def losses(folder: Path) -> list[float]:
    path = folder / "checkpoints" / "ViT-demo" / "DigitsVal" / "nonlinear_training.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_two_processes_have_the_losses_of_one(tmp_path):
    """Batches of 500 and 250 accumulated, which neither processes nor batches divide evenly."""
    arguments = ["--train-dataset=Digits", "--epochs=1", "batch_size=225", "num_grad_accumulation=3",
             "log_steps=1", "warmup_steps=2"]  # fmt: skip
    for size in ("1", "2"):
        (tmp_path / size).mkdir()
        done = run_script("finetune.py", *arguments, f"--world-size={size}", cwd=tmp_path / size)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("fine-tuned ViT-demo on Digits") == 1 and done.stdout.count("parameters train") == 1
    one, two = (losses(tmp_path / size) for size in ("1", "2"))
    assert len(one) == len(two) == 6 and one[-1] < one[0]
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_sigterm_to_all_processes_leaves_a_state_within_ten_seconds(tmp_path, size):
    """As a cluster does it: the signal reaches every process of the job at once."""
    command = [sys.executable, str(ROOT / "finetune.py"), "--train-dataset=Digits", "--epochs=50", f"--world-size={size}",
               "batch_size=32", "log_steps=1"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "checkpoints" / "ViT-demo" / "DigitsVal" / "nonlinear_training.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)
    signalled = time.time()
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in stderr
    assert "the same command goes on from there" in stderr
    state = log.with_name("nonlinear_unfinished.safetensors")
    assert int(metadata_of(state)["step"]) >= 2 and state.stat().st_mtime - signalled < 10


def test_flags_and_bare_names_reach_the_recipe_and_wrong_ones_are_named(tmp_path):
    done = run_script("finetune.py", "--train-dataset=Digits", "--lr=1e-3", "epochs=1", "batch_size=1800", "seed=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("checkpoints/ViT-demo/DigitsVal/*.safetensors")
    recipe = json.loads(metadata_of(path)["made_from"])["recipe"]
    assert (recipe["lr"], recipe["epochs"], recipe["batch_size"], recipe["seed"]) == (1e-3, 1, 1800, 3)
    done = run_script("finetune.py", "--train-dataset=Digits", "--lr=1e-3", "epochs=1", "batch_size=1800", "seed=3", cwd=tmp_path)
    assert done.returncode == 0 and "Digits is fine-tuned already" in done.stdout
    cases = {
        "--finetuning-mode=posthoc": "--finetuning-mode=standard",
        "--finetuning-mode=lines": "linear-2",
        "--trains=heads": "attention+bias",
        "train_precision=fp16": "train_precision",
        "save_minutes=-1": "save_minutes",
        "num_grad_accumulation=0": "num_grad_accumulation",
    }
    for argument, word in cases.items():
        done = run_script("finetune.py", argument, cwd=tmp_path)
        assert done.returncode != 0 and word in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_lines_of_training_reach_tensorboard_and_wandb(tmp_path):
    pytest.importorskip("tensorboard")
    arguments = ["--train-dataset=Digits", "epochs=1", "batch_size=1800", "log_steps=1", "tensorboard=true"]
    done = run_script("finetune.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "results" / "tensorboard" / "ViT-demo" / "standard").iterdir()
    board = EventAccumulator(str(folder))
    board.Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(losses(tmp_path), rel=1e-5)


def test_a_broken_image_is_named_and_ends_the_run(tmp_path):
    """An error in a process that reads images ends this one, too, and with a sentence."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "birds" / split / name).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "birds" / split / name / f"{number}.png")
    for path in (tmp_path / "birds" / "train" / "a").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    options = ["DATASETS=[Birds]", "tasks.Birds.source=birds", "tasks.Birds.templates=['a {}.']", "epochs=1", "batch_size=4"]
    started = time.monotonic()
    done = run_script("finetune.py", *options, cwd=tmp_path)
    assert done.returncode == 1 and "birds" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert time.monotonic() - started < 120


def test_two_runs_of_one_task_fine_tune_it_once(tmp_path):
    command = [sys.executable, str(ROOT / "finetune.py"), "--train-dataset=Digits", "epochs=1"]
    runs = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert sum("fine-tuned ViT-demo on Digits" in stdout for stdout, _ in outputs) == 1
    folder = tmp_path / "checkpoints/ViT-demo/DigitsVal"
    steps = [json.loads(line)["step"] for line in (folder / "nonlinear_training.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and (folder / "nonlinear_finetuned.safetensors").exists()


def test_weights_made_with_other_options_are_replaced_only_when_asked(tmp_path):
    command = ("finetune.py", "--train-dataset=Digits", "epochs=1")
    path = tmp_path / "checkpoints/ViT-demo/DigitsVal/nonlinear_finetuned.safetensors"
    assert run_script(*command, cwd=tmp_path).returncode == 0
    before = path.read_bytes()
    done = run_script(*command, "lr=1e-5", cwd=tmp_path)
    assert done.returncode == 1 and "lr=0.0008, not 1e-05; give overwrite=true to fine-tune anew" in done.stderr, done.stderr
    assert path.read_bytes() == before
    done = run_script(*command, "lr=1e-5", "overwrite=true", cwd=tmp_path)
    assert done.returncode == 0 and path.read_bytes() != before, done.stderr
    assert json.loads(metadata_of(path)["made_from"])["recipe"]["lr"] == 1e-5
    done = run_script(*command, "lr=1e-5", "overwrite=true", cwd=tmp_path)
    assert "Digits is fine-tuned already" in done.stdout, done.stderr


def test_an_unfinished_state_of_other_options_is_replaced_only_when_asked(tmp_path):
    state = tmp_path / "checkpoints/ViT-demo/DigitsVal/nonlinear_unfinished.safetensors"
    facts = {"pretrained": "another", "recipe": {"lr": 1.0}, "task": ""}
    stream_file({"weight.w": torch.ones(1)}, state, {"made_from": json.dumps(facts), "task": "Digits", "step": "3"})
    command = ("finetune.py", "--train-dataset=Digits", "epochs=1")
    done = run_script(*command, cwd=tmp_path)
    assert done.returncode == 1 and "give overwrite=true" in done.stderr and state.exists()
    done = run_script(*command, "overwrite=true", cwd=tmp_path)
    assert done.returncode == 0 and not state.exists() and state.with_name("nonlinear_finetuned.safetensors").exists(), (
        done.stderr
    )
