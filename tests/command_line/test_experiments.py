"""Experiments: their runs, what narrows them, and that each is of options and published figures that there are."""

import csv
import json
from dataclasses import replace
from importlib import import_module

import pytest
from omegaconf import OmegaConf

from command_line.build import build_method
from command_line.composition import ROOT
from command_line.config import compose_config, portable, setting
from command_line.experiments import FOLDER, MAIN, Experiment, decides, read_experiment, read_seeds, seed_options, with_runs
from command_line.preflight import selected_tasks
from command_line.reporting import _configs, grid_of_experiment
from src.errors import UserError
from src.reports.published import FILE, published_table
from src.reports.records import Record, read_records

NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TWO = {
    "title": "two",
    "columns": {"model": {"small": ["model=t5-small"], "base": ["model=t5-base"]}, "tasks": {"8": ["tasks=p3_eight_qa"]}},
    "rows": {
        "before": {"run": ["method=zeroshot"]},
        "after": {"run": ["method=zeroshot"], "figures": {"abs_acc": "finetuned"}},
        "sum": {"run": ["method=sum"]},
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_of_options_that_there_are(name):
    experiment = read_experiment(name)
    runs = experiment.runs()
    assert runs and (ROOT / experiment.script).is_file()
    assert experiment.script == MAIN or hasattr(import_module(experiment.script.removesuffix(".py")), "question_of")
    columns = {tuple(run.column.values()): run for run in runs}
    rows = {run.rows: run for run in runs}  # all rows of one column, and all columns of one row
    for config in _configs([*columns.values(), *rows.values()], []):
        build_method(config)
        assert selected_tasks(config)
    rows = [row.name for row in experiment.rows]
    assert {row for run in runs for row in run.rows} == set(rows) and len(set(rows)) == len(rows)
    assert set(experiment.unranked) <= set(rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_column_of_a_published_table_has_its_name(name):
    experiment = read_experiment(name)
    published = published_table(experiment.published)
    if experiment.published is None:
        return
    runs = experiment.runs()
    ours = {(run.column["model"], run.column["tasks"]) for run in runs}
    assert ours == {(model, tasks) for model, tasks, _, _ in published}
    methods, metrics = ({key[place] for key in published} for place in (2, 3))
    rows = {row.name for row in experiment.rows}
    assert methods - rows == set(experiment.left_out)
    assert {metric for row in experiment.rows for metric in row.figures} >= metrics
    unpublished = rows - methods
    assert len(unpublished) <= 1  # of what the papers have no figure for


def test_every_published_figure_is_of_an_experiment_and_has_its_source():
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["table"] for row in rows} == {read_experiment(name).published for name in NAMES} - {None}
    for row in rows:
        assert float(row["value"]) >= 0 and row["source"] and row["paper"] and row["confidence"], row


def test_a_row_may_have_some_columns_alone(tmp_path):
    node = {**TWO, "rows": {**TWO["rows"], "average": {"run": ["method=average"], "only": {"model": ["base"]}}}}
    runs = Experiment.of("two", node).runs()
    assert {run.column["model"] for run in runs if "average" in run.rows} == {"base"} and len(runs) == 5
    folder = tmp_path / "experiment"
    folder.mkdir()
    node["rows"]["average"]["only"] = {"model": ["large"]}
    (folder / "two.yaml").write_text(json.dumps(node))
    with pytest.raises(UserError, match="row average is only in model=large"):
        read_experiment("two", [tmp_path])


def test_rows_with_the_same_options_share_a_run_and_seeds_have_folders_of_their_own():
    experiment = Experiment.of("two", TWO)
    runs = experiment.runs()
    assert [run.rows for run in runs] == [("before", "after"), ("sum",)] * 2
    assert runs[0].options == ("model=t5-small", "tasks=p3_eight_qa", "method=zeroshot")
    seeded = experiment.runs([0, 2])
    assert [run.seed for run in seeded] == [0, 0, 2, 2] * 2
    config = compose_config(["model_location=here", "model.recipe.seed=2"])
    assert seed_options(seeded[0], config) == {"model.recipe.seed": 0, "model_location": "here/seed_0"}
    assert seed_options(seeded[2], config) == seed_options(runs[0], config) == {}  # the recipe's own


def test_what_a_user_types_leaves_out_what_differs_or_takes_its_place():
    experiment = Experiment.of("two", TWO)
    for typed, numbers in ((["method=sum"], [1, 3]), (["method=sum,zeroshot", "model=t5-base"], [2, 3]), ([], [0, 1, 2, 3])):
        selected, rest = experiment.selected(typed)
        assert list(selected) == numbers and not rest
        assert [run.options for run in selected.values()] == [experiment.runs()[number].options for number in numbers]
    with pytest.raises(UserError, match="two has no row with it; its rows have method=zeroshot, sum"):
        experiment.selected(["method=ties"])
    own, rest = experiment.selected(["model=mine", "precision=bf16"])
    assert rest == ["model=mine", "precision=bf16"] and list(own) == [0, 1]  # both columns are one model then
    assert own[0].column == {"model": "mine", "tasks": "8"}  # and what is published of the small one is not of mine
    assert [decides(text) for text in (*rest, "method.k=10", "cache_dir=there")] == [True, True, True, False]
    assert own[1].options == ("model=mine", "tasks=p3_eight_qa", "method=sum", "precision=bf16")


def test_composed_once_a_group_runs_have_the_options_that_they_would_have_alone():
    runs = list(read_experiment("lines_table2").selected(["num_tasks=8"])[0].values())
    for run, config in zip(runs, _configs(runs, [])):
        assert OmegaConf.to_container(config, resolve=True) == OmegaConf.to_container(compose_config(run.options), resolve=True)


def test_an_experiment_is_a_sweep_over_the_numbers_of_its_runs():
    asked = with_runs(["-m", "+experiment=tsv_table4", "num_tasks=14", "precision=bf16", "seeds=[1,2]"], True)
    assert asked == ["-m", "precision=bf16", "+experiment=tsv_table4", "+experiment.run=4,5,6,7", "+experiment.seeds=[1,2]"]
    assert with_runs(["-m", "method=sum,ties"], True) == ["-m", "method=sum,ties"]
    for arguments, message in (
        (["+experiment=tsv_table4"], r"python main\.py -m \+experiment=tsv_table4"),
        (["+experiment=tsv_tabel4"], "did you mean tsv_table4"),
        (["+experiment=nothing-like-it"], "choose among demo_bundles"),
        (["seeds=[1]"], "seeds are of an experiment"),
    ):
        with pytest.raises(UserError, match=message):
            with_runs(arguments, False)


@pytest.mark.parametrize("seeds", ["[]", "[a]", "[1,1]", "[0.5]", "{a: 1}"])
def test_seeds_are_different_whole_numbers(seeds):
    with pytest.raises(UserError, match="seeds lists whole numbers"):
        read_seeds([f"seeds={seeds}"])
    assert read_seeds(["seeds=[0,3]"]) == [0, 3] and read_seeds(["seeds=4"]) == [4] and not read_seeds([])


@pytest.mark.parametrize("text", ["", "title: x", "rows: {a: {run: []}}", "title: x\nrows: {a: [method=sum]}", "- a"])
def test_a_file_that_is_no_experiment_is_named(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine.yaml is no experiment"):
        read_experiment("mine", [str(tmp_path)])


def test_a_figure_that_nothing_measures_is_named_before_anything_runs(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("title: x\nrows: {a: {run: [], figures: {m: mergd}}}")
    with pytest.raises(UserError, match=r"mine.yaml: nothing measures mergd; did you mean merged\?"):
        read_experiment("mine", [str(tmp_path)])


def shown(name, records, typed=()):
    grid = grid_of_experiment(read_experiment(name), records, typed, [])
    return grid, {(cell.row, cell.metric): cell for cell in grid.cells}


def test_the_records_of_the_documentation_fill_their_experiments():
    records, problems = read_records(ROOT / "docs" / "records")
    assert not problems
    for name in ("demo_vision", "demo_text", "demo_modes", "demo_bundles"):
        grid, cells = shown(name, records)
        assert not any("not there yet" in note for note in grid.notes), name
        assert all(cell.figure for (_, metric), cell in cells.items() if metric != "coefficient"), name
    _, text = shown("demo_text", records)
    assert text["RegMean", "accuracy"].ties_best and not text["TSV-M", "accuracy"].ties_best  # and the sum is worse than both
    assert not text["Task arithmetic", "accuracy"].ties_best


def test_a_record_of_other_weights_options_or_kind_fills_no_cell():
    records, _ = read_records(ROOT / "docs" / "records")
    (own,) = (record for record in records if record.question["model"] == "ViT-demo" and record.content["choices"]["method"] == "ties"
              and record.question["search"] == "grid"
              and not any(record.question["method"].get(step) for step in ("apply_lines", "apply_svc")))  # fmt: skip
    changes = [{"kind": "negation"}, {"question": {**own.question, "precision": "bf16"}},
               {"config": {**own.content["config"], "pretrained": "mine.safetensors"}}]  # fmt: skip
    for change in changes:
        _, cells = shown("demo_vision", [replace(own, content={**own.content, **change})])
        assert cells["TIES", "accuracy"].figure is None, change
    assert shown("demo_vision", [own])[1]["TIES", "accuracy"].figure.value == 100 * own.content["means"]["merged"]["mean"]


def test_a_negation_is_of_the_control_the_threshold_and_the_grid_that_its_experiment_has():
    experiment = read_experiment("linear_layers_negation")
    run = next(run for run in experiment.runs() if run.column["model"] == "ViT-B/32")
    (config,) = _configs([run], [])
    module = import_module("eval_task_negation")
    tasks, own = module.question_of(config)
    assert tasks[-1] == own["control"] == "ImageNet" and own["control_threshold"] == 0.95 and len(own["grid"]) == 21
    question = json.loads(json.dumps({**setting(config, tasks), **own}))
    means = {name: {"mean": 0.5} for name in ("target_pretrained", "target_negated", "control_pretrained", "control_negated")}
    content = {"kind": "negation", "question": question, "means": means, "config": portable(config)}
    row = run.rows[0]
    for other, is_shown in (
        ({}, True),
        ({"control": "MNIST"}, False),
        ({"grid": [1.0]}, False),
        ({"control_threshold": 0.5}, False),
    ):
        record = Record(ROOT / "README.md", {**content, "question": {**question, **other}})
        cell = shown("linear_layers_negation", [record], ["model=ViT-B-32"])[1][row, "target_acc"]
        assert bool(cell.figure) is is_shown, other
        assert cell.verdict.name == ("not comparable" if is_shown else "not run")
