import pytest
import torch
import yaml

from command_line.build import build_family, build_mode, build_recipe
from command_line.config import compose_config
from command_line.paths import paths_of
from command_line.preflight import selected_tasks
from src.data.registry import find_tasks
from src.errors import UserError
from src.evaluation.lineage import benchmark_of, leak_warnings, no_gain_warnings, read_manifests
from src.evaluation.scorer import Score
from src.training.provenance import recipe_digest
from tests.helpers.processes import ROOT

LINEAGE = {
    "model": "m",
    "pretrained": "p",
    "finetuned": {"DTD": "d1", "Cars": "c1"},
    "heads": {"DTD": "h", "Cars": "i"},
    "data": {"DTD": {"val": "v", "test": "t"}, "Cars": {"val": "w", "test": "u"}},
    "recipes": {"DTD": None, "Cars": None},
    "tasks": {"DTD": "td", "Cars": "tc"},
}


def benchmark(*entries) -> str:
    return benchmark_of(LINEAGE, "ViT-B-32", [(name, sections) for name, sections in entries])


def test_a_benchmark_is_named_where_all_its_digests_agree():
    digests = {"finetuned": {"DTD": ["d0", "d1"], "Cars": "c1", "SVHN": "s"}, "data": LINEAGE["data"]}
    assert benchmark(("v1", {"ViT-B-32": {**digests, "pretrained": "p"}})) == "v1"
    assert benchmark(("v1", {"any": digests})) == "v1" and benchmark(("v1", {"ViT-L-14": digests})) == "unknown"
    for other in (
        {"finetuned": {"DTD": "d2", "Cars": "c1"}},  # another checkpoint
        {"finetuned": {"DTD": "d1"}},  # without one of our tasks
        {"data": {"DTD": {"test": "t"}, "Cars": LINEAGE["data"]["Cars"]}},  # without one of our splits
        {"pretrained": "q"},
        {"recipes": "any"},
        {"recipes": {"DTD": "any", "Cars": "any"}},
        {},
    ):
        assert benchmark(("v1", {"ViT-B-32": other})) == "unknown", other
    assert benchmark(("v1", {"ViT-B-32": {"finetuned": ["d1", "c1"], "tasks": "any"}})) == "v1"  # one for all entries
    assert benchmark(("v1", {}), ("v2", {"any": {"pretrained": "p"}}), ("v3", {"any": {"pretrained": "p"}})) == "v2"
    assert benchmark() == "unknown"


def test_the_shipped_manifest_knows_the_demo_and_what_was_trained_here():
    entries = read_manifests([ROOT / "config" / "lineage.yaml"])
    assert [name for name, _ in entries] == ["demo", "tall-v1", "tall-v2", "fusionbench", "own"]
    demo = dict(entries)["demo"]["ViT-demo"]
    config = compose_config([])
    assert {task.name: task.definition for task in selected_tasks(config)} == demo["tasks"]
    tasks = {name: demo["tasks"][name] for name in ("Digits", "Arrows")}
    ours = {
        **LINEAGE,
        "recipes": dict.fromkeys(tasks, demo["recipes"][1]),
        "pretrained": demo["pretrained"],
        "tasks": tasks,
        "heads_from": dict.fromkeys(tasks, "prompts"),
    }
    assert benchmark_of(ours, "ViT-demo", entries) == "demo"
    for other in (
        {"tasks": LINEAGE["tasks"]},
        {"recipes": {"Digits": "r", "Arrows": demo["recipes"][0]}},
        {"pretrained": "p"},
        {"heads_from": {"Digits": "prompts", "Arrows": "published"}},
    ):
        assert benchmark_of({**ours, **other}, "ViT-demo", entries) == "own", other
    assert benchmark_of(ours, "ViT-B-32", entries) == "own"
    assert benchmark_of({**ours, "recipes": {"Digits": demo["recipes"][0], "Arrows": None}}, "ViT-demo", entries) == "unknown"


def test_prompts_of_ones_own_make_another_task():
    usual, other = (
        selected_tasks(compose_config(["DATASETS=[Arrows]", *more]))[0].definition
        for more in ([], ["+tasks.Arrows.templates=['an arrow {}.']"])
    )
    assert usual != other


def test_a_manifest_that_is_none_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"mine": {"ViT-B-32": {"finetund": {}}}}))
    (tmp_path / "b.yaml").write_text("- not\n- a table\n")
    with pytest.raises(UserError) as error_info:
        read_manifests([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "none.yaml"])
    assert [name in problem for name, problem in zip(("finetund", "b.yaml", "none.yaml"), error_info.value.problems)] == [
        True
    ] * 3


def test_a_leaked_test_split_is_warned_of():
    validation = {"DTD": Score(293, 376), "Cars": Score(600, 814), "Small": Score(3, 4)}
    test = {"DTD": Score(1842, 1880), "Cars": Score(6100, 8041), "Small": Score(10, 10)}
    (warning,) = leak_warnings(validation, test)  # DTD 98 against 78; Cars 76 against 74; Small too small to say
    assert "DTD" in warning and "98.0" in warning and "77.9" in warning


def test_a_fine_tuned_model_that_is_no_better_is_doubted():
    zeroshot = {"a": Score(31, 100), "b": Score(31, 100), "c": Score(100, 100)}
    (warning,) = no_gain_warnings(zeroshot, {"a": Score(5, 100), "b": Score(80, 100), "c": Score(100, 100)})
    assert "on a (5.0 and 31.0 %)" in warning


@pytest.mark.parametrize(("model", "modes"), {"ViT-demo": ("standard", "linear", "linear-2", "lora"),
                                              "t5-demo": ("standard", "ia3", "lora")}.items())  # fmt: skip
def test_the_manifest_knows_the_demos_recipes_in_every_mode(model, modes):
    (demo,) = [models[model] for name, models in read_manifests([ROOT / "config" / "lineage.yaml"]) if name == "demo"]
    shipped = set()
    for mode in modes:
        config = compose_config([f"model={model}", f"finetuning_mode={mode}"])
        recipe = build_recipe(config, config.tasks.names[0])
        shipped.add(recipe_digest(recipe.facts, build_mode(config).training))
    assert set(demo["recipes"]) == shipped


def test_the_manifest_knows_the_text_demo(tmp_path):
    (demo,) = [models["t5-demo"] for name, models in read_manifests([ROOT / "config" / "lineage.yaml"]) if name == "demo"]
    assert {task.name: task.definition for task in find_tasks(list(demo["tasks"]))} == demo["tasks"]
    config = compose_config(["model=t5-demo", f"model_location={tmp_path}", f"cache_dir={tmp_path}"])
    assert build_family(config, paths_of(config), torch.device("cpu")).pretrained_digest == demo["pretrained"]


def test_a_run_without_fine_tuned_models_is_not_called_fine_tuned_here():
    entries = read_manifests([ROOT / "config" / "lineage.yaml"])
    assert benchmark_of({**LINEAGE, "finetuned": {}, "recipes": {}}, "ViT-B-32", entries) == "unknown"
