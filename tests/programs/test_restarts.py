"""`kill -9` at ten random moments loses nothing that was finished, and a rerun completes and repeats none of it."""

import json
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import metadata_of
from src.state_dict import digest
from tests.helpers.processes import run_for

TASKS = ["Positions", "Arrows"]
RECIPE = ["model.recipe.epochs=1", "model.recipe.lr=1e-3"]
FINETUNE = ("finetune.py", f"--train-dataset={','.join(TASKS)}", *RECIPE, "save_minutes=0.01")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A folder where fine-tuning was ended ten times at random moments, by kill -9 and by SIGTERM, and then let end, and what
    each finished file was then."""
    folder = tmp_path_factory.mktemp("campaign")
    moments = random.Random(0)
    finished: dict = {}
    kills, resumed = 0, set()
    for turn in range(10):
        number = signal.SIGTERM if turn % 2 else signal.SIGKILL
        kills += run_for(moments.uniform(1, 5), *FINETUNE, folder=folder, number=number)
        for path in folder.glob("checkpoints/*/*Val/*_finetuned.safetensors"):
            written = path.stat().st_mtime_ns
            assert finished.setdefault(path, written) == written, f"{path} was made twice"
            assert len(open_checkpoint(path)) > 50
        for path in folder.glob("checkpoints/*/*Val/*_unfinished.safetensors"):
            resumed.add(metadata_of(path)["step"])
    run_for(None, *FINETUNE, folder=folder)
    assert kills >= 3 and len(resumed) >= 2
    return folder, finished


def test_fine_tuning_completes_and_repeats_no_finished_task(campaign):
    folder, finished = campaign
    paths = sorted(folder.glob("checkpoints/ViT-demo/*Val/*.safetensors"))
    assert [path.parent.name for path in paths] == sorted(f"{task}Val" for task in TASKS)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert not list(folder.rglob("*.part"))


def test_what_was_killed_ten_times_is_what_was_never_stopped_to_the_bit(campaign, tmp_path):
    folder, _ = campaign
    run_for(None, *FINETUNE, folder=tmp_path)
    for task in TASKS:
        name = f"checkpoints/ViT-demo/{task}Val/nonlinear_finetuned.safetensors"
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
        lines = (folder / name).with_name("nonlinear_training.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == [10, 20, 29]


def test_a_sweep_completes_and_repeats_no_finished_score(campaign):
    folder, _ = campaign
    sweep = ("main.py", "-m", "method=average,sum", f"DATASETS=[{','.join(TASKS)}]", "n_eval_points=3", *RECIPE)
    moments = random.Random(1)
    scores: dict = {}
    kills = 0
    for _ in range(10):
        kills += run_for(moments.uniform(0.2, 5), *sweep, folder=folder)
        for path in folder.glob("cache/scores/*.json"):
            json.loads(path.read_text())
            assert scores.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, f"{path} was scored twice"
        for path in folder.glob("results/*.json"):
            assert json.loads(path.read_text())["means"]
    run_for(None, *sweep, folder=folder)
    assert kills >= 3
    assert all(path.stat().st_mtime_ns == written for path, written in scores.items())
    assert len(list(folder.glob("results/*.json"))) == 2 and len(list(folder.glob("results/*/accuracy.png"))) == 2
    assert not list(folder.rglob("*.part")) and not list(folder.glob("results/.*"))


def test_the_state_of_a_task_that_is_finished_goes_and_one_of_the_user_s_stays(campaign):
    folder, _ = campaign
    weights = next(folder.glob("checkpoints/*/PositionsVal/nonlinear_finetuned.safetensors"))
    state = weights.with_name("nonlinear_unfinished.safetensors")
    state.write_bytes(weights.read_bytes())  # as if killed after the weights were there and before the state was removed
    run_for(None, *FINETUNE, folder=folder)
    assert not state.exists()
    save_file({"w": torch.ones(2)}, state)
    run_for(None, *FINETUNE, folder=folder)
    assert state.exists()
    state.unlink()


@pytest.mark.parametrize("output", ["merged.safetensors", "merged"])
def test_an_output_is_the_earlier_or_the_new_one_and_never_half(output, tmp_path):
    base = {f"blocks.{i}.w": torch.randn(1024, 1024) for i in range(12)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({key: leaf + 1 for key, leaf in base.items()}, tmp_path / "tuned.safetensors")
    command = ["main.py", "model=files", "pretrained=base.safetensors", "finetuned=[tuned.safetensors]", f"output={output}"]
    moments = random.Random(2)

    def merged() -> str:
        path = tmp_path / output
        file = path if path.is_file() else path / "model.safetensors"
        return digest(load_file(file).items())

    run_for(None, *command, "specify_lambda=1.0", folder=tmp_path)  # the first run may have to import torch
    started = time.monotonic()
    run_for(None, *command, "specify_lambda=1.0", folder=tmp_path)
    took = time.monotonic() - started
    kills = turn = 0
    states = [merged()]
    while kills < 10:  # a run that ends before its moment does not count, and shows how short the moments must be
        turn += 1
        assert turn < 50
        coefficient = 0.5 if turn % 2 == 0 else 1.0
        started = time.monotonic()
        landed = run_for(moments.uniform(0.1 * took, took), *command, f"specify_lambda={coefficient}", folder=tmp_path)
        took = took if landed else min(took, time.monotonic() - started)
        kills += landed
        killed = merged()
        run_for(None, *command, f"specify_lambda={coefficient}", folder=tmp_path)
        assert killed in (states[-1], merged())
        states.append(merged())
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(set(states)) == 2
