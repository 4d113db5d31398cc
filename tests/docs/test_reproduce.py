"""Every command of the pages on the papers runs, at the size of the demo."""

import json
import random
import re
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.helpers.documents import REPRODUCTIONS, commands, problems_before_work
from tests.helpers.processes import ROOT, run_script

# The model that stands for a page's, and the list of tasks for that model.
SMALL = {"ViT-B-32": "ViT-demo", "ViT-B-16": "ViT-demo", "ViT-L-14": "ViT-demo", "t5-large-lm-adapt": "t5-demo"}
TASKS = {"ViT-demo": "two_image_tasks", "t5-demo": "two_text_tasks"}
SIZES = re.compile(
    r"(tasks|num_tasks|--train-dataset|--eval-datasets|--datasets|--world-size|steps|--points)=(.*)"
)  # the papers'
GRIDS = {
    "eval_task_addition.py": "--n-eval-points=3",
    "eval_task_negation.py": "--n-eval-points=3",
    "eval_disentanglement.py": "--points=2",
}
RECIPE = ["model.recipe.epochs=1", "model.recipe.batch_size=8"]
PAGES = [page for page in REPRODUCTIONS if page.stem != "README"]


def image_tasks(folder: Path) -> dict:
    """Write images of two plain colours for each of two tasks, and one to keep."""
    draw, tasks = random.Random(0), {}
    for task in ("First", "Second", "Kept"):
        for split in ("train", "val", "test"):
            for place, name in enumerate(("dark", "light")):
                path = folder / task / split / name
                path.mkdir(parents=True)
                for number in range(2):
                    Image.new("RGB", (32, 32), (draw.randrange(90) + 150 * place,) * 3).save(path / f"{number}.png")
        tasks[task] = {"source": str(folder / task), "templates": ["something {}"]}
    return {"names": ["First", "Second"], "control": "Kept", **tasks}


def text_tasks(folder: Path) -> dict:
    """Write rows of two classes for each of two tasks."""
    tasks = {}
    for task, words in {"Moods": ("good", "bad"), "Sizes": ("large", "small")}.items():
        (folder / task).mkdir(parents=True)
        for split in ("train", "val", "test"):
            rows = "".join(f"it is {words[number % 2]} today,{number % 2}\n" for number in range(4))
            (folder / task / f"{split}.csv").write_text("text,label\n" + rows)
        template = "{{text}} Which one? ||| {{answer_choices[label]}}"
        tasks[task] = {"source": str(folder / task), "templates": [template], "choices": list(words)}
    return {"names": ["Moods", "Sizes"], **tasks}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in, with the two lists of tasks under `mine`; pages share what they fine-tune there."""
    folder = tmp_path_factory.mktemp("reproduce")
    lists = {"two_image_tasks": image_tasks(folder / "images"), "two_text_tasks": text_tasks(folder / "texts")}
    (folder / "mine" / "tasks").mkdir(parents=True)
    for name, tasks in lists.items():
        (folder / "mine" / "tasks" / f"{name}.yaml").write_text(json.dumps(tasks))
    return folder


def at_small_size(script: str, arguments: list[str]) -> list[str]:
    """Return the arguments with a small model for the paper's, two tasks for its lists, short fine-tuning and small grids."""
    kept = [argument for argument in arguments if not SIZES.fullmatch(argument)]
    short = [re.sub(r"(?<=iterations=)\d+", "2", argument) for argument in kept]
    small = [re.sub(r"(?<=model=)\S+", lambda name: SMALL[name[0]], argument) for argument in short]
    (model,) = {argument.partition("=")[2] for argument in small if argument.lstrip("-").startswith("model=")}
    grid = [GRIDS[script]] if script in GRIDS else []
    return ["--config-dir=mine", *small, *grid, f"tasks={TASKS[model]}", *RECIPE]


@cache
def problems(script: str, *arguments: str, folder: Path) -> str:
    """Run a command, once however many pages have it, and return what it says is wrong."""
    done = run_script(script, *arguments, cwd=folder)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_runs(page: Path, folder: Path):
    """What downloads runs as far as its first request, and a report has no results."""
    assert commands(page)
    for script, *arguments in commands(page):
        if script.startswith(("download_", "report")):
            assert not problems_before_work(script, *arguments, folder=folder), (script, *arguments)
        else:
            assert not problems(script, *at_small_size(script, arguments), folder=folder), (script, *arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_task_that_a_page_names_is_there(page: Path):
    """Where a command runs, others stand for them."""
    lists = {path.stem: OmegaConf.load(path).names for path in (ROOT / "config" / "tasks").glob("*.yaml")}
    known = set().union(*lists.values())
    for _, *arguments in commands(page):
        for option, value in (match.groups() for argument in arguments if (match := SIZES.fullmatch(argument))):
            if option == "tasks":
                assert value in lists, value
            elif option.endswith(("dataset", "datasets")):
                assert known.issuperset(value.split(",")), value
