"""The result of a merge: its means, its name and its record."""

import json
import math

import pytest

from src.evaluation.scorer import Score
from src.experiments.merge import MergeResult, TaskScores
from src.experiments.record import half_width


def result(**changes) -> MergeResult:
    scores = {
        "a": TaskScores(Score(20, 100), Score(80, 100), Score(60, 100)),
        "b": TaskScores(Score(50, 100), Score(100, 100), Score(90, 100)),
    }
    fields = {
        "config": {},
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
