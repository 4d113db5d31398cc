"""Every config composes and becomes what it names."""

import re

import pytest

from command_line.build import STEPS, build_device, build_family, build_method, build_recipe
from command_line.config import compose_config
from command_line.paths import paths_of
from command_line.preflight import selected_tasks
from src.experiments.questions import USUAL
from src.experiments.titles import STEPS as TITLES
from src.merging.method import Method
from src.training.loop import Recipe
from tests.helpers.processes import ROOT

NAMED = {"open_clip": ["model.name=RN50", "model.pretrained=null"], "t5": ["model.name=google/flan-t5-small"]}
GROUPS = {group: sorted(path.stem for path in (ROOT / "config" / group).glob("*.yaml")) for group in ("model", "tasks", "method")}


@pytest.mark.parametrize("name", GROUPS["method"])
def test_every_method_is_built_from_its_yaml(name):
    config = compose_config([f"method={name}"])
    assert isinstance(build_method(config), Method)


@pytest.mark.parametrize("name", GROUPS["tasks"])
def test_every_list_of_tasks_names_tasks_there_are(name):
    config = compose_config([f"tasks={name}"])
    assert [task.name for task in selected_tasks(config)] == list(config.tasks.names)


@pytest.mark.parametrize("name", [name for name in GROUPS["model"] if name != "files"])
def test_every_model_has_a_recipe_for_each_of_its_tasks(name):
    config = compose_config([f"model={name}", *NAMED.get(name, [])])
    for task in config.tasks.names:
        assert isinstance(build_recipe(config, task), Recipe)


@pytest.mark.parametrize("overrides", [["model=ViT-demo"], ["model=open_clip", *NAMED["open_clip"]]])
def test_models_that_need_no_network_are_built_from_their_yaml(overrides, tmp_path):
    """ViT-B-32 and its like need one; with random weights they are built in models/test_clip.py."""
    config = compose_config([*overrides, f"model_location={tmp_path}"])
    family = build_family(config, paths_of(config), build_device(config))
    assert family.name == config.model.name and family.pretrained


def test_num_tasks_takes_the_first_and_datasets_any():
    first = selected_tasks(compose_config(["num_tasks=2"]))
    assert [task.name for task in first] == ["Shapes", "Colours"]
    chosen = selected_tasks(compose_config(["DATASETS=[Arrows,Digits]"]))
    assert [task.name for task in chosen] == ["Arrows", "Digits"]


def test_n_eval_points_respaces_the_grid():
    method = build_method(compose_config(["method=ties", "n_eval_points=4", "method.apply_lines=True"]))
    assert method.coefficients(8) == (0.5, 1.0, 1.5)


def test_steps_after_a_merge_have_one_list():
    config = compose_config([])
    assert set(STEPS) == set(TITLES) == set(config.method.step_order) == set(USUAL["step_order"])
    assert all(config.method[f"apply_{step}"] is False for step in STEPS)


def test_help_names_every_option():
    text = (ROOT / "config" / "config.yaml").read_text()
    explained = text[text.index("template:") :]
    options = re.findall(r"^(\w+):", text[: text.index("hydra:\n  run")], re.M)
    for option in set(options) - {"defaults", "method", "wandb"}:
        assert option in explained, option
    fields = {key for name in GROUPS["method"] for key in compose_config([f"method={name}"]).method}
    for field in fields - {"_target_", "grid", "floors", "own_base", "ties_base", "tall_mask"}:
        assert f"method.{field}" in explained, field
