"""Text models through the whole program: tasks of a user's own, on a tiny T5, from fine-tuning to what others merged."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.processes import run_script
from tests.helpers.text_folder import FLAGS, MINE, make_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny T5, two tasks that choose and one that writes, and fine-tuned models of the two, of all weights and by (IA)^3."""
    root = tmp_path_factory.mktemp("text")
    make_folder(root)
    for mode in ("standard", "ia3"):
        done = run_script("finetune.py", *FLAGS, f"--finetuning-mode={mode}", cwd=root)
        assert done.returncode == 0, done.stderr
        assert f"{mode}: " in done.stdout and "the network has 51,648" in done.stdout and "image" not in done.stdout + done.stderr
    return root


def run(root, script, *arguments):
    """Return the record of a run that has to succeed."""
    done = run_script(script, *arguments, cwd=root)
    assert done.returncode == 0, done.stderr
    record = json.loads(max(root.glob("results/*.json"), key=lambda path: path.stat().st_mtime_ns).read_text())
    assert record["name"] in done.stdout and "image" not in done.stdout
    return record


def refusal(root, script, *arguments):
    """Return the one sentence that a run ends with."""
    done = run_script(script, *arguments, cwd=root)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


METHODS = {
    "sum": (),
    "ties": ("method.apply_lines=True",),
    "TSVM": ("specify_lambda=1.0",),
    "tall_mask": (),
    "regmean": ("specify_lambda=1.0",),
    "fisher": (),
    "adamerging": ("method.iterations=2", "method.per=task"),
    "cg": ("method.iterations=3", "statistics.examples=8"),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_merges_models_of_text(root, method):
    record = run(root, "main.py", *MINE, f"method={method}", *METHODS[method])
    assert record["benchmark"] == "own" and set(record["test"]) == {"first", "last"}
    assert record["means"]["merged"]["mean"] >= record["means"]["zeroshot"]["mean"]


def test_vectors_of_ia3_are_merged(root):
    record = run(root, "main.py", *MINE, "finetuning_mode=ia3", "method=sum")
    assert record["means"]["finetuned"]["mean"] > record["means"]["zeroshot"]["mean"]


def test_single_models_are_scored_and_negated(root):
    own = run(root, "eval_single_task.py", *FLAGS)
    start = run(root, "eval_single_task.py", *FLAGS, "--finetuning-mode=none")
    assert own["means"]["val"]["mean"] > start["means"]["val"]["mean"]
    negated = run(root, "eval_task_negation.py", *FLAGS, "--control-dataset=last", "--n-eval-points=3")
    assert negated["control"] == "last" and set(negated["tasks"]) == {"first"}


def theirs(root, mode, path):
    """Write the first task's model as MaTS does; return its entries."""
    model = load_file(root / "checkpoints" / "mine" / "firstVal" / f"{mode}_finetuned.safetensors")
    names = {key: "transformer." + key.replace(".ia3", ".ia3_layer.ia3_vector") for key in model}
    torch.save({names[key]: leaf for key, leaf in model.items()}, path)
    return model


@pytest.mark.parametrize("mode", ["standard", "ia3"])
def test_what_mats_merged_is_scored_as_what_it_is(root, mode):
    """Its model of the first task, under its names: the scores of the fine-tuned one, also where there are none of these."""
    path, files = root / f"{mode}_merged_model.pt", {"standard": "nonlinear", "ia3": "ia3"}[mode]
    model = theirs(root, files, path)
    options = (*MINE, f"finetuning_mode={mode}", "method=given", f"method.weights={path.name}")
    beside = run(root, "main.py", *options)
    merged, finetuned = beside["test"]["first"]["merged"], beside["test"]["first"]["finetuned"]
    assert {key: merged[key] for key in finetuned} == finetuned and beside["coefficient"] == 1
    assert beside["test"]["last"]["normalised"] <= 1 and list(beside["lineage"]["read"]) == [path.name]
    assert beside["lineage"]["read"][path.name] == beside["lineage"]["finetuned"]["first"]
    alone = run(root, "main.py", *options, "model_location=empty", f"output={mode}.safetensors")
    assert set(alone["test"]["first"]) == {"zeroshot", "merged"} and "finetuned" not in alone["means"]
    assert {task: each["merged"] for task, each in alone["test"].items()} == {
        task: each["merged"] for task, each in beside["test"].items()
    }
    written = load_file(root / f"{mode}.safetensors")
    assert written.keys() == model.keys() and all(torch.equal(written[key], leaf) for key, leaf in model.items())


def test_a_merge_is_scored_on_tasks_it_was_not_made_of(root):
    """One named, and those of a list; those it was made of are not scored again."""
    options = (*MINE, "DATASETS=[first]", "method=average")
    one = run(root, "main.py", *options, "eval_on=[last]")
    listed = run(root, "main.py", *options, "eval_on=words")
    assert set(one["test"]) == {"first"} and set(one["unseen"]) == {"last"}
    assert one["unseen"] == listed["unseen"] and one["name"] == listed["name"]
    single = run(root, "main.py", *MINE, "method=single_task")
    assert one["unseen"]["last"]["merged"] == single["test"]["last"]["merged"]
    texts = run(root, "main.py", *options, "eval_on=texts")
    assert set(texts["unseen"]) == {"written"} and texts["name"] != one["name"]
    assert "eval_on scores one model" in refusal(root, "main.py", *MINE, "method=tall_mask", "eval_on=texts")
    assert "no task txets" in refusal(root, "main.py", *MINE, "method=sum", "eval_on=txets")


def test_one_model_on_a_mixture_is_scored_like_a_merged_one(root):
    done = run_script("finetune.py", *FLAGS, "--mixture", cwd=root)
    assert done.returncode == 0, done.stderr
    path = "checkpoints/mine/mixture-first+lastVal/nonlinear_finetuned.safetensors"
    assert path in done.stdout
    record = run(root, "main.py", *MINE, "method=given", f"method.weights={path}")
    assert record["means"]["merged"]["mean"] > record["means"]["zeroshot"]["mean"]
    again = run_script("finetune.py", *FLAGS, "--mixture", cwd=root)
    assert again.returncode == 0 and "mixture-first+last is fine-tuned already" in again.stdout
    assert "first is one" in refusal(root, "finetune.py", *FLAGS, "--mixture", "--train-dataset=first")


def test_what_cannot_be_given_is_said(root):
    given = (*MINE, "method=given")
    theirs(root, "ia3", root / "vectors.pt")
    assert "method.weights is needed" in refusal(root, "main.py", *given)
    assert "no model at nothing.pt" in refusal(root, "main.py", *given, "method.weights=nothing.pt")
    assert "give finetuning_mode=ia3" in refusal(root, "main.py", *given, "method.weights=vectors.pt")
    files = ("model=files", "pretrained=tiny", "finetuned=[vectors.pt]", "output=x.safetensors")
    assert "model=files scores nothing" in refusal(root, "main.py", *files, "method=given", "method.weights=vectors.pt")


def test_datasets_of_a_users_own_are_found_there(root):
    done = run_script("download_datasets.py", "--config-dir=mine", "tasks=words", cwd=root)
    assert done.returncode == 0 and "first is there" in done.stdout, done.stderr
