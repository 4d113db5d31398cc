"""Every config composes and becomes what it names."""

import re

import pytest

import command_line
from src.merging.method import Method
from src.training.loop import Recipe
from tests.helpers.processes import ROOT

GROUPS = {group: sorted(path.stem for path in (ROOT / "config" / group).glob("*.yaml")) for group in ("model", "tasks", "method")}


@pytest.mark.parametrize("name", GROUPS["method"])
def test_every_method_is_built_from_its_yaml(name):
    config = command_line.composed([f"method={name}"])
    assert isinstance(command_line.build_method(config), Method)


@pytest.mark.parametrize("name", GROUPS["tasks"])
def test_every_list_of_tasks_names_tasks_there_are(name):
    config = command_line.composed([f"tasks={name}"])
    assert [task.name for task in command_line.selected_tasks(config)] == list(config.tasks.names)


@pytest.mark.parametrize("name", GROUPS["model"])
def test_every_model_is_built_from_its_yaml(name, tmp_path):
    tiny = ["model.name=RN50", "model.pretrained=null"] if name == "open_clip" else []
    config = command_line.composed([f"model={name}", f"model_location={tmp_path}", *tiny])
    if config.model.family is None:
        return
    for task in config.tasks.names:
        assert isinstance(command_line.recipe_of(config, task), Recipe)
    if name.startswith("ViT-") and name != "ViT-demo":
        return  # their weights need a network; ViT-B-32 with random ones is in test_clip
    family = command_line.build_family(config, command_line.device_of(config))
    assert family.name == config.model.name and family.pretrained


def test_num_tasks_takes_the_first_and_datasets_any():
    first = command_line.selected_tasks(command_line.composed(["num_tasks=2"]))
    assert [task.name for task in first] == ["Shapes", "Colours"]
    chosen = command_line.selected_tasks(command_line.composed(["DATASETS=[Arrows,Digits]"]))
    assert [task.name for task in chosen] == ["Arrows", "Digits"]


def test_n_eval_points_respaces_the_grid():
    method = command_line.build_method(command_line.composed(["method=ties", "n_eval_points=4", "method.apply_lines=True"]))
    assert method.coefficients(8) == (0.5, 1.0, 1.5)


def test_help_names_every_option():
    text = (ROOT / "config" / "config.yaml").read_text()
    explained = text[text.index("template:") :]
    options = re.findall(r"^(\w+):", text[: text.index("hydra:\n  run")], re.M)
    for option in set(options) - {"defaults", "method", "wandb"}:
        assert option in explained, option
    fields = {key for name in GROUPS["method"] for key in command_line.composed([f"method={name}"]).method}
    for field in fields - {"_target_", "grid", "floors", "own_base", "ties_base", "tall_mask"}:
        assert f"method.{field}" in explained, field
