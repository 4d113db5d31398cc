"""The scripts of the tangent-space benchmark, and main.py on every fine-tuning mode, on quickly fine-tuned models of the demo."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line.build import build_family
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.opening import open_checkpoint
from src.data.registry import find_tasks
from src.evaluation.scorer import Score
from src.evaluation.search import SearchPoint
from src.experiments.disentanglement import DisentanglementResult
from src.experiments.negation import NegationResult, TaskNegation, best_negation
from src.models.family import Batch
from src.pickles.linearized import parameter_shapes
from src.training.provenance import recipe_digest_of
from tests.helpers.processes import ROOT, run_script

TASKS = ("Textures", "Letters")
QUICK = ("model.recipe.epochs=1", "model.recipe.batch_size=120", "model.recipe.warmup_steps=5", "DATASETS=[Textures,Letters]")
MODES = ("standard", "linear", "linear-2", "lora", "posthoc")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    config = compose_config([f"model_location={folder}", f"cache_dir={folder}"])
    return build_family(config, paths_of(config), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where each mode's models of two tasks lie, each fine-tuned for an epoch."""
    folder = tmp_path_factory.mktemp("modes")
    for mode in MODES[:4]:
        done = run_script("finetune.py", f"--finetuning-mode={mode}", *QUICK, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, script: str, *arguments: str) -> dict:
    """Run a script; return the record that it wrote, with what it printed under "printed"."""
    done = run_script(script, *arguments, *QUICK, cwd=folder)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    named = [line for line in done.stdout.splitlines() if line.endswith(".json")]
    return json.loads((folder / named[-1]).read_text()) | {"printed": done.stdout}


def test_single_tasks_are_scored_in_every_mode_and_before_it(folder):
    means = {mode: run(folder, "eval_single_task.py", f"--finetuning-mode={mode}") for mode in ("none", *MODES)}
    assert means["none"]["question"]["finetuning_mode"] is None and means["none"]["question"]["tasks"] == list(TASKS)
    assert means["none"]["benchmark"] == "demo"  # the shipped model, and nothing fine-tuned
    assert all(means[mode]["benchmark"] == "own" for mode in MODES)  # by another recipe than the demo's
    found = {mode: record["means"]["test"]["mean"] for mode, record in means.items()}
    assert all(found[mode] > found["none"] + 0.05 for mode in MODES if mode != "posthoc"), found
    assert found["posthoc"] != found["standard"] and len(set(found.values())) == 6
    assert means["none"]["lineage"]["finetuned"] == {} and means["none"]["lineage"]["pretrained"]
    assert "fine-tuned (linear-2)" in means["linear-2"]["printed"]
    assert {name for record in means.values() for name in record["scores"]} == set(TASKS)


def test_task_addition_searches_from_zero_and_is_normalised_by_its_own_mode(folder):
    record = run(folder, "eval_task_addition.py", "--finetuning-mode=linear", "--n-eval-points=5", "--max-coefficient=2.0")
    assert [point["coefficient"] for point in record["validation"]] == [0, 0.5, 1, 1.5, 2]
    alone = run(folder, "eval_single_task.py", "--finetuning-mode=linear")
    for task in TASKS:
        assert record["test"][task]["finetuned"] == alone["scores"][task]["test"]
    assert record["means"]["merged"]["mean"] > record["means"]["zeroshot"]["mean"]


@pytest.mark.parametrize(("mode", "method"), [("linear", "ties"), ("linear-2", "TSVM"), ("lora", "TSVC"), ("posthoc", "average")])
def test_any_method_runs_on_any_mode(folder, mode, method):
    record = run(folder, "main.py", f"finetuning_mode={mode}", f"method={method}", "n_eval_points=3")
    assert record["question"]["finetuning_mode"]["name"] == mode and f"ViT-demo ({mode}), 2 tasks" in record["printed"]
    assert record["means"]["merged"]["mean"] > record["means"]["zeroshot"]["mean"]


def test_negation_lowers_the_target_and_keeps_the_control(folder):
    record = run(folder, "eval_task_negation.py", "--control-dataset=Shapes", "--n-eval-points=6", "--max-coefficient=0.5")
    assert record["control"] == "Shapes" and set(record["tasks"]) == set(TASKS)
    for negated in record["tasks"].values():
        assert negated["coefficient"] > 0
        assert negated["validation"][0]["coefficient"] == 0
        kept = next(point for point in negated["validation"] if point["coefficient"] == negated["coefficient"])
        assert kept["accuracy"]["Shapes"] >= 0.95 * negated["validation"][0]["accuracy"]["Shapes"]
    means, start = record["means"], run(folder, "eval_single_task.py", "--finetuning-mode=none")["scores"]
    assert means["target_negated"]["mean"] < means["target_pretrained"]["mean"]
    assert all(record["tasks"][task]["test"]["target"]["pretrained"] == start[task]["test"] for task in TASKS)
    assert means["control_negated"]["mean"] > 0.9 * means["control_pretrained"]["mean"]
    again = run(folder, "eval_task_negation.py", "--control-dataset=Letters", "--n-eval-points=2")
    assert set(again["tasks"]) == {"Textures"}  # the control is not forgotten itself


def test_disentanglement_is_mapped_and_drawn(folder):
    record = run(folder, "eval_disentanglement.py", "--points=5", "--max-images=100", "--reach=2")
    assert record["grid"] == [-2, -1, 0, 1, 2]
    first, second = (record["shares"][task] for task in TASKS)
    assert all(row[2] == 0 for row in first) and all(share == 0 for share in second[2])  # the other vector is left out
    assert record["error"][0][0] > 0.1 and record["error"][2][2] == 0
    assert record["means"]["from 0 to 1"]["mean"] < record["means"]["everywhere"]["mean"]
    (figure,) = folder.glob("results/*/disentanglement.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    linear = run(folder, "eval_disentanglement.py", "--points=2", "--max-images=50", "--finetuning-mode=linear")
    assert linear["question"]["finetuning_mode"]["name"] == "linear" and set(linear["means"]) == {"everywhere"}


def test_a_cell_is_the_share_of_predictions_that_two_models_make_differently(folder, family):
    """By hand, for one pair of coefficients and the evenly spread images: of 1,000 by 600, not the first 600."""
    record = run(folder, "eval_disentanglement.py", "--points=2", "--reach=1", "--max-images=600")
    models = {task: open_checkpoint(folder / f"checkpoints/ViT-demo/{task}Val/nonlinear_finetuned.safetensors") for task in TASKS}
    start = family.pretrained
    moves = {task: {key: model[key] - start[key] for key in start} for task, model in models.items()}
    both = {key: leaf - moves["Textures"][key] + moves["Letters"][key] for key, leaf in start.items()}  # at (-1, 1)
    alone = {"Textures": {key: leaf - moves["Textures"][key] for key, leaf in start.items()}, "Letters": models["Letters"]}
    for task in find_tasks(TASKS):
        family.prepare(task)
        (batch,) = family.batches(task, "test", 1000, family.spans(task, "test")[0])
        chosen = [number * 1000 // 600 for number in range(600)]
        batch = Batch(task.name, batch.inputs[chosen], batch.labels[chosen])
        one, two = family.predictor(alone[task.name])(batch), family.predictor(both)(batch)
        assert record["shares"][task.name][0][1] == pytest.approx((one != two).float().mean().item(), abs=2 / 600)


def test_several_processes_find_what_one_finds_and_say_it_once(folder):
    for script, options in {
        "eval_single_task.py": ("--finetuning-mode=linear-2",),
        "eval_task_negation.py": ("--control-dataset=Shapes", "--n-eval-points=2", "--max-coefficient=0.1"),
        "eval_disentanglement.py": ("--points=2", "--max-images=20"),
    }.items():
        two, one = (run(folder, script, *options, f"world_size={size}", f"cache_dir=cache{size}") for size in (2, 1))
        assert two["printed"].count(".json") == 1 and two["printed"].count("benchmark:") == 1
        different = {key for key in one if one[key] != two[key]}
        assert different <= {"config", "seconds", "peak_memory_bytes", "printed"}, different


def test_adapters_merge_as_files_like_the_dense_models_they_stand_for(folder, tmp_path):
    for task in TASKS:
        shutil.copytree(folder / f"checkpoints/ViT-demo/{task}Val/lora_finetuned", tmp_path / task)
    start = ROOT / "demo" / "ViT-demo.safetensors"
    command = ("main.py", "model=files", f"pretrained={start}", "finetuned=[Textures,Letters]", "method=ties", "method.k=100")
    done = run_script(*command, "specify_lambda=0.5", "output=merged.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    merged, before = load_file(tmp_path / "merged.safetensors"), load_file(start)
    moved = {key for key in before if not torch.equal(merged[key], before[key])}
    assert len(moved) == 16 and all(".attn." in key for key in moved)
    (tmp_path / "Letters" / "adapter_config.json").write_text("{")
    done = run_script(*command, "specify_lambda=0.5", "output=other.safetensors", cwd=tmp_path)
    assert done.returncode == 1 and "adapter_config.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "script", ["eval_single_task.py", "eval_task_addition.py", "eval_task_negation.py", "eval_disentanglement.py"]
)
def test_scripts_report_user_errors_without_a_traceback(script, tmp_path):
    cases = {
        "--model=ViT-Z": "ViT-Z",
        "--model=files": "files",
        "--eval-datasets=MNISS": "MNISS",
        "--finetuning-mode=lines": "linear-2",
    }
    if script in ("eval_task_addition.py", "eval_task_negation.py"):
        cases |= {"--n-eval-points=1": "at least 2", "--max-coefficient=x": "positive number"}
    if script == "eval_task_negation.py":
        cases |= {"--control-threshold=2": "from 0 to 1", "--control-dataset=Cats": "Cats"}
        cases |= {"--eval-datasets=Shapes": "the control and the only task", "search=golden": "does not read search"}
    if script == "eval_disentanglement.py":
        cases |= {"--points=0": "at least 2", "--eval-datasets=Digits": "two tasks", "--max-images=no": "whole number"}
    for argument, word in cases.items():
        done = run_script(
            script, argument, "model.finetune_missing=false" if argument != "--model=files" else "num_tasks=2", cwd=tmp_path
        )
        assert done.returncode != 0 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = run_script(script, "--model=ViT-B-32", "--eval-datasets=MNIST,Cars", "download=false", cwd=tmp_path)
    assert done.returncode == 1 and "MNIST" in done.stderr and "Cars" in done.stderr and "Traceback" not in done.stderr
    help_text = run_script(script, "--help", cwd=tmp_path)
    assert help_text.returncode == 0 and "--finetuning-mode" in help_text.stdout


def test_an_adapter_s_folder_says_of_what_it_was_made(folder):
    path = folder / "checkpoints" / "ViT-demo" / "LettersVal" / "lora_finetuned"
    assert recipe_digest_of(path) == recipe_digest_of(path / "adapter_model.safetensors") is not None
    done = run_script("main.py", "finetuning_mode=lora", *QUICK, f"finetuned={{Textures: {path}}}", cwd=folder)
    assert done.returncode == 1 and "was fine-tuned on Letters, not on Textures" in done.stderr


def interrupt():
    threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_is_answered_in_a_sentence(tmp_path):
    done = run_script("eval_single_task.py", "--finetuning-mode=none", cwd=tmp_path, prepare=interrupt)
    assert done.returncode == 130 and "a rerun goes on from there" in done.stderr and "Traceback" not in done.stderr


def test_of_the_coefficients_that_keep_the_control_the_one_with_the_lowest_target_is_best_negation():
    def point(coefficient, target, control):
        return SearchPoint(coefficient, {"target": target, "control": control}, -target)

    curve = [point(0, 0.9, 0.60), point(0.1, 0.7, 0.58), point(0.2, 0.4, 0.571), point(0.3, 0.4, 0.59), point(0.4, 0.1, 0.5)]
    assert best_negation(curve, "target", "control", 0.95) == 0.2  # 0.57 is the least; of equals the first
    assert best_negation(curve, "target", "control", 1.0) == 0 and best_negation(curve, "target", "control", 0.0) == 0.4


def about(title="t") -> dict:
    return {"title": title, "config": {}, "choices": {}, "question": {}, "lineage": {}, "benchmark": "none", "seconds": 1.0}


def test_the_mean_of_one_control_task_is_no_surer_than_one_of_its_scores():
    negated = TaskNegation(0.5, [], (Score(90, 100), Score(10, 100)), (Score(50, 100), Score(50, 100)))
    means = NegationResult(tasks={"a": negated, "b": negated}, control="c", **about()).means()
    assert means["control_negated"]["half_width_95"] == pytest.approx(0.098, abs=1e-4)
    assert means["target_negated"]["half_width_95"] == pytest.approx(0.0588 / 2**0.5, abs=1e-4)


def test_the_error_is_the_sum_of_both_tasks_shares():
    shares = {"a": [[0.1, 0.0], [0.2, 0.0]], "b": [[0.3, 0.4], [0.0, 0.0]]}
    found = DisentanglementResult(grid=[-1.0, 1.0], shares=shares, **about())
    assert found.error == [[0.4, 0.4], [0.2, 0.0]] and found.means() == {"everywhere": {"mean": pytest.approx(0.25)}}
    unit = DisentanglementResult(grid=[0.0, 1.0], shares=shares, **about())
    assert unit.means()["from 0 to 1"] == unit.means()["everywhere"]


def test_numbered_checkpoints_of_the_tangent_line_are_scored_around_the_model_they_hold(folder, tmp_path):
    """As the released code saves them: `model.params.7` fine-tuned, `model.params0.7` what it is linear around, no names."""
    start = load_file(ROOT / "demo" / "ViT-demo.safetensors")
    tuned = {}
    for task in TASKS:
        named = load_file(folder / f"checkpoints/ViT-demo/{task}Val/linear_finetuned.safetensors")
        numbered = {f"model.{part}.{number}": (named if part == "params" else reference_of(named, start))[name]
                    for part in ("params", "params0") for number, (name, _) in enumerate(parameter_shapes(8))}  # fmt: skip
        tuned[task] = tmp_path / "checkpoints" / "ViT-demo" / f"{task}Val" / "linear_finetuned.pt"
        tuned[task].parent.mkdir(parents=True)
        torch.save(numbered, tuned[task])
    theirs = run(tmp_path, "eval_single_task.py", "--finetuning-mode=linear")
    ours = run(folder, "eval_single_task.py", "--finetuning-mode=linear")
    assert theirs["scores"] == ours["scores"] and theirs["lineage"]["pretrained"] == ours["lineage"]["pretrained"]


def reference_of(named, start):
    """The pre-trained weights under the names that checkpoints have."""
    return {name: start[name if name in start else name.removeprefix("model.")].float() for name in named}
