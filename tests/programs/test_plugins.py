"""A method, a model and a task of one's own, in a folder outside the clone, run from elsewhere."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.helpers.documents import write_files
from tests.helpers.processes import ROOT, run_fresh, run_script

MODELS = ("model=files", "pretrained=base.safetensors", "finetuned=[a.safetensors,b.safetensors,c.safetensors]")
MEDIAN = (*MODELS, "method=median", "output=merged.safetensors")


@pytest.fixture
def folders(tmp_path):
    """The user's folder, with the files that docs/add.md gives, and the folder where he runs."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    write_files(ROOT / "docs" / "add.md", tmp_path)
    run.mkdir()
    for name, move in {"base": 0.0, "a": 1.0, "b": 2.0, "c": 6.0}.items():
        save_file({"w": torch.full((4, 3), 1 + move)}, run / f"{name}.safetensors")
    return mine, run


@pytest.mark.parametrize("how", ["file", "relative", "package", "python path"])
def test_the_documented_method_merges_from_anywhere(how, folders, monkeypatch):
    mine, run = folders
    plugin = {"file": mine / "median.py", "relative": "../mine/median.py", "package": mine, "python path": "median"}[how]
    if how == "package":
        yaml = mine / "method" / "median.yaml"
        yaml.write_text(yaml.read_text().replace("median.Median", "mine.median.Median"))
    if how == "python path":
        monkeypatch.setenv("PYTHONPATH", str(mine))
    done = run_fresh("main.py", "--config-dir=../mine", f"plugins=[{plugin}]", *MEDIAN, "specify_lambda=0.5", cwd=run)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert torch.equal(load_file(run / "merged.safetensors")["w"], torch.full((4, 3), 2.0))  # 1 + 0.5 times the median of 1, 2, 6


def test_a_bug_in_a_method_of_ones_own_is_shown_as_it_is(folders):
    mine, run = folders
    path = mine / "median.py"
    path.write_text(path.read_text().replace("stack.median(0)", "stack.medain(0)"))
    command = ("main.py", f"--config-dir={mine}", f"plugins=[{path}]", *MEDIAN, "specify_lambda=0.5")
    done = run_script(*command, cwd=run)
    line = path.read_text().splitlines().index(next(line for line in path.read_text().splitlines() if "medain" in line)) + 1
    assert done.returncode == 1 and done.stderr.startswith("error: median has an error of its own, a AttributeError")
    assert f'File "{path}", line {line}' in done.stderr and "has no attribute 'medain'" in done.stderr
    path.write_text("from nowhere import nothing\n")
    done = run_script(*command, cwd=run)
    assert done.returncode == 1 and f'File "{path}", line 1' in done.stderr and "No module named 'nowhere'" in done.stderr
    assert str(ROOT) not in done.stderr


def test_a_class_that_no_plugin_has_is_refused_and_nothing_runs(folders):
    mine, run = folders
    (mine / "method" / "median.yaml").write_text("_target_: os.system\ncommand: touch executed\n")
    done = run_script("main.py", f"--config-dir={mine}", f"plugins=[{mine}/median.py]", *MEDIAN, "specify_lambda=0.5", cwd=run)
    assert done.returncode == 1 and done.stderr.startswith("error: method._target_=os.system is no merging method")
    assert done.stderr.count("\n") == 1 and not (run / "executed").exists()


def test_a_sweep_in_other_processes_imports_plugins_and_says_which_job_failed(folders):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    mine, run = folders
    (mine / "method" / "broken.yaml").write_text("_target_: median.Median\n")
    done = run_fresh(
        *("main.py", "-m", "--config-dir=../mine", "plugins=[../mine/median.py]", *MEDIAN[:3], "method=median,broken"),
        *("specify_lambda=0.5", "output=${hydra:runtime.choices.method}.safetensors", "hydra/launcher=side_by_side"),
        cwd=run,
    )
    assert done.returncode == 1
    assert torch.equal(load_file(run / "median.safetensors")["w"], torch.full((4, 3), 2.0))
    (line,) = [line for line in done.stderr.splitlines() if "method.grid is missing" in line]
    assert re.match(r".*method=broken .*: error: ", line), line


def test_a_model_and_a_task_of_ones_own_are_scored_from_anywhere(folders):
    mine, run = folders
    for path, text in {
        "model/own.yaml": "defaults: [ViT-demo]\nname: own\nfamily: {_target_: family.Own}\n",
        "family.py": "from src.models.clip import Clip\n\n\nclass Own(Clip):\n    pass\n",
        "tasks/colours.yaml": "names: [Two]\nTwo: {source: photographs, templates: ['something {}.']}\n",
    }.items():
        (mine / path).parent.mkdir(exist_ok=True)
        (mine / path).write_text(text)
    for number, (split, name) in enumerate((split, name) for split in ("train", "test") for name in ("red", "blue")):
        for image in range(12):
            path = run / "photographs" / split / name / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (200 * (name == "red"), number, 240 * (name == "blue") - image)).save(path)
    options = ("hydra.searchpath=[../mine]", "plugins=[../mine/family.py]", "tasks=colours")
    done = run_script("eval_single_task.py", "--model=own", "--finetuning-mode=none", *options, cwd=run)
    assert done.returncode == 0, done.stderr
    (path,) = (run / "results").glob("*.json")
    record = json.loads(path.read_text())
    assert record["config"]["model"]["name"] == "own" and record["scores"]["Two"]["test"]["count"] == 24
