import json
import math

import pytest
import torch
from safetensors.torch import save_file

from src.cache import Cache
from src.checkpoints import open_checkpoint
from src.evaluate import Score, Scorer
from src.merging.method import Family
from src.merging.sum import Sum
from src.merging.tall_mask import TallMask
from src.results import Result, Row, half_width
from src.search import Asked, search
from src.state_dict import digest
from tests.test_train import Line, Points


def scorer(tmp_path, seen=None) -> Scorer:
    return Scorer(Line(), Cache(tmp_path), 10, lambda what, done: seen.append((what, done)) if seen is not None else None)


def test_a_score_is_counted_once_and_remembered(tmp_path):
    seen = []
    first = scorer(tmp_path, seen)
    weights = {"weight": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)}
    known = digest(weights.items())
    score = first.score(weights, known, Points(), "val", "the sum")
    assert score == Score(64, 64) and first.fresh == 1 and sum(done for _, done in seen) == 64
    assert "the sum on points (val)" in seen[0][0]
    again = scorer(tmp_path, seen)
    assert again.score(weights, known, Points(), "val", "the sum") == score and again.fresh == 0
    assert sum(done for _, done in seen) == 128  # what is remembered counts as done, too
    assert again.score(weights, known, Points(), "test", "the sum").count == 64 and again.fresh == 1


def test_a_spoiled_cache_file_counts_as_absent(tmp_path):
    cache = Cache(tmp_path)
    assert cache.get("scores", ["a"], lambda: 1) == 1 and cache.get("scores", ["a"], lambda: 2) == 1
    (file,) = (tmp_path / "scores").iterdir()
    file.write_text(file.read_text()[:9])
    assert cache.get("scores", ["a"], lambda: 3) == 3 and cache.get("scores", ["b"], lambda: 4) == 4


def test_a_checkpoint_is_read_again_only_when_its_file_changed(tmp_path):
    cache, path = Cache(tmp_path / "cache"), tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}, path)
    facts = cache.facts(open_checkpoint(path))
    assert facts.non_finite == ["b"] and cache.facts(open_checkpoint(path)) == facts
    save_file({"a": torch.ones(4), "b": torch.zeros(2)}, path)
    assert cache.facts(open_checkpoint(path)).digest != facts.digest


def test_search_takes_the_first_of_equals_and_keeps_the_curve():
    method = Sum(k=100, grid=[0.1, 0.2, 0.3, 0.4])
    accuracy = {0.1: 0.2, 0.2: 0.6, 0.3: 0.6, 0.4: 0.1}
    family = Family(lambda coefficient: {"a": coefficient})
    asked = []
    finetuned = Asked(("a",), lambda task: asked.append(task) or 0.8)
    best, curve = search(method, family, method.coefficients(1), lambda vectors, c: {"a": accuracy[vectors["a"]]}, finetuned, {})
    assert best == {"a": 0.2} and [point.coefficient for point in curve] == [0.1, 0.2, 0.3, 0.4]
    assert curve[1].objective == pytest.approx(0.75) and asked == ["a"]


def test_a_method_with_a_vector_for_each_task_gets_a_coefficient_for_each():
    method = TallMask(base=Sum(k=100, grid=[1.0]), grid=[0.2, 0.3, 0.4])
    accuracy = {0.2: {"a": 0.5, "b": 0.9}, 0.3: {"a": 0.7, "b": 0.9}, 0.4: {"a": 0.7, "b": 0.1}}
    family = Family(lambda coefficient: {"a": coefficient, "b": coefficient})
    reference = {"a": 1.0, "b": 1.0}
    best, _ = search(method, family, method.coefficients(2), lambda vectors, c: accuracy[c], reference, {})
    assert best == {"a": 0.3, "b": 0.2} and family.chosen(best) == {"a": 0.3, "b": 0.2}


def result(**changes) -> Result:
    rows = {"a": Row(Score(20, 100), Score(80, 100), Score(60, 100)), "b": Row(Score(50, 100), Score(100, 100), Score(90, 100))}
    fields = {"config": {}, "question": {"k": 1}, "lineage": {}, "curve": [], "summary": {}, "bytes_stored": 1, "seconds": 2.0}
    fields |= {"title": "m, 2 tasks, sum + LiNeS", "coefficients": {"a": 0.3, "b": 0.3}, "rows": rows}
    return Result(**{**fields, **changes})


def test_means_are_over_tasks_with_confidence_intervals():
    means = result().means()
    assert means["merged"]["mean"] == pytest.approx(0.75) and means["normalised"]["mean"] == pytest.approx((0.75 + 0.9) / 2)
    assert means["merged"]["half_width_95"] == pytest.approx(1.959964 * math.sqrt(0.6 * 0.4 / 100 + 0.9 * 0.1 / 100) / 2)
    assert half_width([0.0, 0.0]) == 0.0


def test_a_result_is_named_after_its_question(tmp_path):
    assert result().name == result(seconds=9.0).name != result(question={"k": 2}).name
    assert result().name.startswith("m-2-tasks-sum-LiNeS-") and result(lineage={"a": "b"}).name != result().name
    record = json.loads(result().save(tmp_path / "deep").read_text())
    assert record["test"]["a"]["normalised"] == pytest.approx(0.75) and record["test"]["a"]["merged"]["right"] == 60


def test_a_finetuned_model_that_is_always_wrong_normalises_to_zero():
    row = Row(Score(1, 10), Score(0, 10), Score(5, 10))
    assert row.normalised == 0.0 and row.normalised_variance == 0.0
