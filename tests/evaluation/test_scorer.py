import json
import math

import pytest
import torch
from safetensors.torch import save_file

from src.checkpoints.opening import open_checkpoint
from src.evaluation.cache import Cache
from src.evaluation.scorer import Candidate, Job, Score, Scorer
from src.evaluation.search import STRATEGIES, LazyAccuracies, search
from src.experiments.merge import MergeResult, TaskScores
from src.experiments.record import half_width
from src.merging.method import MergeFamily
from src.merging.sum import Sum
from src.merging.tall_mask import TallMask
from src.runtime.progress import SILENT
from src.state_dict import digest
from tests.helpers.line_family import Line, Points
from tests.helpers.progress import RecordedProgress


def scorer(tmp_path, progress=SILENT) -> Scorer:
    return Scorer(Line(), Cache(tmp_path), 10, progress)


RIGHT = {"weight": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)}
WRONG = {**RIGHT, "weight": -RIGHT["weight"]}


def candidate(weights, name="the sum") -> Candidate:
    return Candidate(weights, digest(weights.items()), name)


def one(by: Scorer, weights, split="val") -> Score:
    (scores,) = by.scores([Job(Points(), split, lambda: [candidate(weights)])])
    return scores[0]


def test_a_score_is_counted_once_and_remembered(tmp_path):
    progress = RecordedProgress()
    first = scorer(tmp_path, progress)
    assert one(first, RIGHT) == Score(64, 64) and first.computed == 1 and sum(done for _, done in progress.reports) == 64
    assert "the sum on points (val)" in progress.reports[0][0]
    again = scorer(tmp_path, progress)
    assert one(again, RIGHT) == Score(64, 64) and again.computed == 0
    assert sum(done for _, done in progress.reports) == 128  # what is remembered counts as done, too
    assert one(again, RIGHT, "test").count == 64 and again.computed == 1


def test_several_candidates_are_scored_in_one_pass_over_the_data(tmp_path):
    by, passes = scorer(tmp_path), []
    batches = by.family.batches
    by.family.batches = lambda task, split, size, span: passes.append(span) or batches(task, split, size, span)
    one(by, RIGHT)
    assert passes == [range(0, 40), range(40, 64)]
    jobs = [Job(Points(), "val", lambda: [candidate(RIGHT), candidate(WRONG), candidate(by.family.pretrained)])]
    ((right, wrong, start),) = by.scores(jobs)
    assert (right, wrong) == (Score(64, 64), Score(0, 64)) and start == one(scorer(tmp_path / "else"), by.family.pretrained)
    assert len(passes) == 4 and by.computed == 3  # one more pass, for the two that were new


def test_a_killed_run_keeps_the_spans_it_had_scored(tmp_path):
    class Killed(Exception):
        pass

    by = scorer(tmp_path)
    batches = by.family.batches

    def killed(task, split, size, span):
        if span.start:
            raise Killed
        return batches(task, split, size, span)

    by.family.batches = killed
    with pytest.raises(Killed):
        one(by, RIGHT)
    again, passes = scorer(tmp_path), []
    batches = again.family.batches
    again.family.batches = lambda task, split, size, span: passes.append(span) or batches(task, split, size, span)
    assert one(again, RIGHT) == Score(64, 64) and passes == [range(40, 64)]


def test_scores_of_another_precision_are_not_taken_for_these(tmp_path):
    one(scorer(tmp_path), RIGHT)
    other = scorer(tmp_path)
    other.family.precision = "bf16"
    assert one(other, RIGHT).count == 64 and other.computed == 1


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


def searched(method, accuracy, strategy="grid", reference=None):
    """The chosen coefficients, the curve, and the groups in which coefficients were asked for."""
    tasks, asked = list(next(iter(accuracy.values()))), []

    def measure(tried):
        asked.append(list(tried))
        return [accuracy[coefficient] for coefficient in tried]

    reference = reference or dict.fromkeys(tasks, 1.0)
    return *search(method, method.coefficients(len(tasks)), STRATEGIES[strategy], measure, reference, reference), asked


def test_search_takes_the_first_of_equals_and_keeps_the_curve():
    method = Sum(k=100, grid=[0.1, 0.2, 0.3, 0.4])
    accuracy = {0.1: {"a": 0.2}, 0.2: {"a": 0.6}, 0.3: {"a": 0.6}, 0.4: {"a": 0.1}}
    measured = []
    finetuned = LazyAccuracies(("a",), lambda: measured.append("once") or {"a": 0.8})
    best, curve, asked = searched(method, accuracy, reference=finetuned)
    assert best == {"a": 0.2} and [point.coefficient for point in curve] == [0.1, 0.2, 0.3, 0.4]
    assert curve[1].objective == pytest.approx(0.75) and measured == ["once"]
    assert asked == [[0.1, 0.2, 0.3, 0.4]]  # all at once, so that they share their passes over the data


def test_a_method_with_a_vector_for_each_task_gets_a_coefficient_for_each():
    method = TallMask(base=Sum(k=100, grid=[1.0]), grid=[0.2, 0.3, 0.4])
    accuracy = {0.2: {"a": 0.5, "b": 0.9}, 0.3: {"a": 0.7, "b": 0.9}, 0.4: {"a": 0.7, "b": 0.1}}
    family = MergeFamily(lambda coefficient: {"a": coefficient, "b": coefficient})
    best, _, _ = searched(method, accuracy)
    assert best == {"a": 0.3, "b": 0.2} and family.at(best) == {"a": 0.3, "b": 0.2}
    assert searched(method, accuracy, "golden")[0] == best


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 15, 21, 30])
def test_golden_search_finds_every_peak_of_one_with_fewer_looks(count):
    grid = [round(0.1 * (place + 1), 1) for place in range(count)]
    for peak in range(count):
        accuracy = {coefficient: {"a": 0.9 - 0.01 * abs(place - peak) ** 1.3} for place, coefficient in enumerate(grid)}
        best, curve, asked = searched(Sum(k=100, grid=grid), accuracy, "golden")
        assert best == {"a": grid[peak]}
        assert len(curve) == len({c for group in asked for c in group}) == sum(map(len, asked))  # none is measured twice
        assert [point.coefficient for point in curve] == sorted(point.coefficient for point in curve)
        assert len(curve) <= min(count, 2 * math.sqrt(count) + 2)


def test_golden_search_is_not_misled_by_a_flat_start_or_a_second_peak():
    for heights in ([0.5] * 9 + [0.6], [0.5, 0.7, 0.6, 0.5, 0.5, 0.6, 0.9, 0.8, 0.7, 0.6], list(reversed([0.5] * 9 + [0.6]))):
        grid = [round(0.1 * (place + 1), 1) for place in range(10)]
        accuracy = {c: {"a": height} for c, height in zip(grid, heights)}
        for order in (grid, grid[::-1]):  # single_task with LiNeS goes down
            method = Sum(k=100, grid=order)
            assert searched(method, accuracy, "golden")[0] == searched(method, accuracy)[0]


def test_golden_search_climbs_to_the_first_of_a_flat_top():
    grid = [round(0.1 * (place + 1), 1) for place in range(15)]
    accuracy = {c: {"a": min(0.8, 0.5 + c, 2.1 - c)} for c in grid}
    assert searched(Sum(k=100, grid=grid), accuracy, "golden")[0] == searched(Sum(k=100, grid=grid), accuracy)[0] == {"a": 0.3}


def result(**changes) -> MergeResult:
    rows = {
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
    fields |= {"title": "m, 2 tasks, sum + LiNeS", "coefficients": {"a": 0.3, "b": 0.3}, "rows": rows}
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
    row = TaskScores(Score(1, 10), Score(0, 10), Score(5, 10))
    assert row.normalised == 0.0 and row.normalised_variance == 0.0
