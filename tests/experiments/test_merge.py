"""The result of a merge: its means, its name and its record."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from command_line.build import build_method
from command_line.config import compose_config
from src.evaluation.scorer import Score
from src.experiments.merge import MergeResult, TaskScores, data_used, uses_gradients
from src.experiments.record import half_width
from src.reports.figures import draw, figure_writers
from src.statistics.collection import StatisticsSettings
from tests.merging.test_methods import METHODS, NEEDED


def result(**changes) -> MergeResult:
    scores = {
        "a": TaskScores(Score(20, 100), Score(80, 100), Score(60, 100)),
        "b": TaskScores(Score(50, 100), Score(100, 100), Score(90, 100)),
    }
    fields = {
        "config": {},
        "choices": {},
        "question": {"k": 1},
        "lineage": {},
        "benchmark": "own",
        "curve": [],
        "grid_size": 0,
        "summary": {},
        "bytes_stored": 1,
        "seconds": 2.0,
    }
    fields |= {"title": "m, 2 tasks, sum + LiNeS", "coefficients": {"a": 0.3, "b": 0.3}, "scores": scores}
    return MergeResult(**{**fields, **changes})


def test_means_are_over_tasks_with_confidence_intervals():
    means = result().means()
    assert means["merged"]["mean"] == pytest.approx(0.75) and means["normalised"]["mean"] == pytest.approx((0.75 + 0.9) / 2)
    assert means["merged"]["half_width_95"] == pytest.approx(1.959964 * math.sqrt(0.6 * 0.4 / 100 + 0.9 * 0.1 / 100) / 2)
    assert half_width([0.0, 0.0]) == 0.0


def test_a_result_is_named_after_its_question(tmp_path):
    assert result().name == result(seconds=9.0).name != result(question={"k": 2}).name
    assert result().name.startswith("m-2-tasks-sum-LiNeS-") and result(lineage={"a": "b"}).name != result().name
    record = json.loads(result().save(tmp_path / "deep").read_text())
    assert record["kind"] == "merge" and record["format"] == 1
    assert record["test"]["a"]["normalised"] == pytest.approx(0.75) and record["test"]["a"]["merged"]["right"] == 60


def test_a_finetuned_model_that_is_always_wrong_normalises_to_zero():
    scores = TaskScores(Score(1, 10), Score(0, 10), Score(5, 10))
    assert scores.normalised == 0.0 and scores.normalised_variance == 0.0


def test_tasks_without_a_model_of_their_own_have_no_normalised_accuracy(tmp_path):
    unseen = {"c": TaskScores(Score(20, 100), None, Score(30, 100)), "d": TaskScores(Score(30, 100), None, Score(50, 100))}
    both = result(unseen=unseen)
    record = json.loads(both.save(tmp_path).read_text())
    assert set(record["unseen"]["c"]) == {"zeroshot", "merged"} and set(record["test"]) == {"a", "b"}
    assert record["means"]["unseen_merged"]["mean"] == pytest.approx(0.4) and "unseen_finetuned" not in record["means"]
    assert {kind: mean for kind, mean in both.means().items() if "unseen" not in kind} == result().means()
    console = Console(width=100, file=io.StringIO())
    both.show(console)
    text = console.file.getvalue()
    assert text.index("mean") < text.index("tasks it was not merged from") < text.index(" c ")
    assert text.count("normalised") == 1
    assert set(figure_writers(both)) == {"accuracy", "unseen"} and set(figure_writers(result())) == {"accuracy"}
    for path in draw(both, tmp_path / "figures"):
        assert path.stat().st_size > 1000
    own = {**result().scores, "c": unseen["c"]}
    some = result(scores=own, coefficients=dict.fromkeys(own, 1.0))
    assert some.means()["finetuned"] == result().means()["finetuned"] and some.means()["merged"]["mean"] == pytest.approx(0.6)
    assert "unseen" not in some.record()


DATA = {
    "fisher": "labelled val",
    "cg": "labelled val",
    "regmean": "unlabelled val",
    "esm": "unlabelled val",
    "adamerging": "unlabelled test",
}
ON_VALIDATION = StatisticsSettings(split="val", examples=8, labels="empirical", seed=0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_data_it_is_made_of(name):
    method = build_method(compose_config([f"method={name}", *NEEDED.get(name, [])]))
    assert data_used(method, ON_VALIDATION) == DATA.get(name, "none")
    assert uses_gradients(method) == (name in ("fisher", "cg", "adamerging"))


@pytest.mark.parametrize(
    ("options", "settings", "data"),
    [
        (["method=fisher"], {"labels": "expected"}, "unlabelled val"),
        (["method=fisher", "method.apply_lines=True"], {"split": "train"}, "labelled train"),
        (["method=cg", "method.objective=regmean"], {}, "unlabelled val"),
        (["method=adamerging", "method.split=val"], {}, "unlabelled val"),
        (["method=tall_mask", "method@method.base=fisher"], {"labels": "true"}, "unlabelled val"),
        (["method=tall_mask", "method@method.base=fisher"], {}, "labelled val"),
        (["method=tall_mask", "method@method.base=adamerging"], {}, "unlabelled test"),
    ],
)
def test_what_data_a_method_is_made_of_follows_from_its_options(options, settings, data):
    assert data_used(build_method(compose_config(options)), replace(ON_VALIDATION, **settings)) == data
