"""Experiments and reports as typed: a table from nothing, what is done is left out, and records as they lie in a folder."""

import json
import os
import signal
import time

import pytest

from tests.helpers.processes import run_script, start_script
from tests.helpers.text_folder import MINE, TASKS, make_folder

SMALL = """
title: A small table
columns:
  model: {tiny: [model=mine]}
  tasks: {two: []}
figures: {accuracy: merged, normalised: normalised}
rows:
  Zero-shot: {run: [method=zeroshot]}
  Fine-tuned: {run: [method=zeroshot], figures: {accuracy: finetuned}}
  Task arithmetic: {run: [method=sum]}
  TIES + LiNeS: {run: [method=ties, method.apply_lines=True]}
  TALL Mask + TA: {run: [method=tall_mask]}
"""
FORGET = """
title: One task forgotten
script: eval_task_negation.py
with: [tasks=kept]
columns:
  model: {tiny: [model=mine]}
figures: {target_acc: target_negated, control_acc: control_negated}
lower_is_better: [target_acc]
rows:
  Pre-trained: {run: [], figures: {target_acc: target_pretrained, control_acc: control_pretrained}}
  Negated: {run: []}
"""
EXPERIMENT = ("-m", MINE[0], "+experiment=small")


def folder_of(root):
    """Make a user's folder with a small experiment, whose models are fine-tuned when they are missing."""
    make_folder(root)
    model = root / "mine" / "model" / "mine.yaml"
    model.write_text(model.read_text() + "finetune_missing: true\n")
    (root / "mine" / "experiment").mkdir()
    for name, text in {"experiment/small": SMALL, "experiment/forget": FORGET, "tasks/kept": f"{TASKS}control: last\n"}.items():
        (root / "mine" / f"{name}.yaml").write_text(text)
    return root


def records(root):
    return {path.name: json.loads(path.read_text()) for path in root.glob("results/*.json")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder in which the experiment was killed once in the middle, and run again."""
    root = folder_of(tmp_path_factory.mktemp("experiments"))
    process = start_script("main.py", *EXPERIMENT, cwd=root, log=root / "killed.txt")
    deadline = time.monotonic() + 120
    while process.is_alive() and not records(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (root / "before.json").write_text(json.dumps({name: (root / "results" / name).stat().st_mtime_ns for name in records(root)}))
    done = run_script("main.py", *EXPERIMENT, cwd=root)
    assert done.returncode == 0, done.stderr
    (root / "again.txt").write_text(done.stdout)
    return root


def report(root, *arguments):
    done = run_script("report.py", MINE[0], *arguments, cwd=root)
    assert done.returncode == 0, done.stderr
    return done


def test_what_a_killed_run_left_is_completed_and_no_finished_run_is_repeated(root):
    before = json.loads((root / "before.json").read_text())
    assert 0 < len(before) < 4 == len(records(root))
    assert {name: (root / "results" / name).stat().st_mtime_ns for name in before} == before
    printed = (root / "again.txt").read_text()
    assert printed.count("\ndone: ") == len(before) and "small: TALL Mask + TA, tiny, two" in printed


def test_a_finished_experiment_is_left_as_it_is_until_its_weights_change(root):
    before = {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and not {".claims", ".sweep"} & set(path.parts)
    }
    done = run_script("main.py", *EXPERIMENT, "method=sum,ties", cwd=root)
    assert done.returncode == 0 and done.stdout.count("done: ") == 2, done.stdout + done.stderr
    done = run_script("report.py", "--config-dir=elsewhere", "experiment=small", cwd=root)
    assert done.returncode == 1 and "--config-dir=elsewhere is no folder" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (weights,) = root.glob("checkpoints/*/firstVal/*finetuned.safetensors")
    os.utime(weights)
    done = run_script("main.py", *EXPERIMENT, "method=sum", cwd=root)
    assert done.returncode == 0 and "done: " not in done.stdout and len(records(root)) == 4


def test_the_table_has_each_row_of_the_experiment(root):
    printed = report(root, "experiment=small").stdout
    by_method = {record["choices"]["method"]: record for record in records(root).values()}
    for row, method in {
        "Zero-shot": "zeroshot",
        "Task arithmetic": "sum",
        "TIES + LiNeS": "ties",
        "TALL Mask + TA": "tall_mask",
    }.items():
        mean = 100 * by_method[method]["means"]["merged"]["mean"]
        (line,) = (line for line in printed.splitlines() if f" {row} " in line)
        assert f"{mean:.1f} ± " in line
    assert f"{100 * by_method['sum']['means']['finetuned']['mean']:.1f}" in printed and "benchmark: own" in printed
    assert "not there yet" not in printed


def test_two_processes_at_once_do_each_run_once_and_seeds_are_tables_with_a_spread(root):
    logs = [root / f"{name}.txt" for name in "ab"]
    options = (*EXPERIMENT, "seeds=[42,1]", "method=sum,zeroshot")
    processes = [start_script("main.py", *options, cwd=root, log=log) for log in logs]
    for process in processes:
        process.join(180)
        assert process.exitcode == 0, "".join(log.read_text() for log in logs)
    printed = "".join(log.read_text() for log in logs)
    seeded = [record for record in records(root).values() if record["config"]["model"]["recipe"]["seed"] == 1]
    assert {record["choices"]["method"] for record in seeded} == {"sum", "zeroshot"}
    for record in seeded:
        assert record["config"]["model_location"] == "checkpoints/seed_1"
        file = f"results/{record['name']}.json"
        assert printed.count(file) - printed.count(f"done: {file}") == 1  # written once
    table = report(root, "experiment=small", "seeds=[42,1]", "method=sum").stdout
    assert "the standard deviation over seeds" in table


def test_an_experiment_of_another_script_is_run_by_it_left_out_when_done_and_shown(root):
    forget = ("-m", MINE[0], "+experiment=forget")
    first, again = (run_script("main.py", *forget, cwd=root) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "done: " not in first.stdout and again.stdout.count("done: ") == 1
    (means,) = (record["means"] for record in records(root).values() if record["kind"] == "negation")
    table = report(root, "experiment=forget").stdout
    for row, model in {"Pre-trained": "pretrained", "Negated": "negated"}.items():
        (line,) = (line for line in table.splitlines() if f" {row} " in line)
        assert all(f"{100 * means[f'{kind}_{model}']['mean']:.1f} ±" in line for kind in ("target", "control"))
    failed = run_script("main.py", *forget, "precision=fp8", cwd=root)
    assert failed.returncode == 1 and "precision is fp32, bf16 or fp16" in failed.stderr


def test_a_report_is_written_in_every_format(root):
    files = [root / f"report.{ending}" for ending in ("md", "tex", "csv", "html")]
    done = report(root, f"output={','.join(map(str, files))}")
    assert done.stdout.split() == list(map(str, files))
    assert "| tall\\_mask |" in files[0].read_text() and r"\toprule" in files[1].read_text()
    assert "tall_mask,mean,%," in files[2].read_text() and "<!doctype html>" in files[3].read_text().lower()
    only = report(root, "method=sum", "config.model.recipe.seed=42", "rows=method", "columns=model", "figure=normalised").stdout
    assert "normalised by method and model, benchmark own" in only and "ties" not in only


def test_what_is_no_record_is_named_and_the_rest_is_shown(root):
    (root / "results" / "cut.json").write_text('{"kind": "me')
    done = report(root)
    assert "cut.json" in done.stderr and "tall_mask" in done.stdout
    (root / "results" / "cut.json").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=smal"], "did you mean small?"),
        (["output=a.xls"], "choose one of these endings"),
        (["figure=mergd"], "did you mean merged?"),
        (["rows=nonsense"], "no record has a field nonsense"),
        (["experiment="], "there is no experiment"),
        (["results_dir=small.txt"], "is a file, and a folder is needed"),
        (["lineages=none.yaml"], "none.yaml is no manifest"),
        (["output=/proc/x.md"], "cannot be written"),
        (["results_dir=nowhere"], "there are no results in nowhere"),
        (["method=nothing"], "method=nothing: no record has it"),
        (["sum"], "key=value"),
        (["seeds=[a]", "experiment=small"], "seeds lists whole numbers"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_sentence(root, arguments, message):
    (root / "small.txt").touch()
    done = run_script("report.py", MINE[0], *arguments, cwd=root)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
