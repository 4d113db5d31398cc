import math
import statistics
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from command_line.build import build_family
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.opening import open_checkpoint
from src.evaluation import evaluator
from src.evaluation.cache import Cache, ContentSummary
from src.evaluation.evaluator import Evaluator
from src.evaluation.scorer import Candidate, Job, Score, Scorer
from src.evaluation.search import STRATEGIES, LazyAccuracies, search
from src.merging.method import MergeFamily
from src.merging.sum import Sum
from src.merging.tall_mask import TallMask
from src.models.clip import model
from src.runtime.distributed import ProcessGroup
from src.runtime.progress import SILENT
from src.state_dict import digest, entry_digest
from src.task_vectors import TaskVector
from tests.helpers.linear_family import LinearFamily, Points
from tests.helpers.progress import RecordedProgress


def make_scorer(tmp_path, progress=SILENT) -> Scorer:
    return Scorer(LinearFamily(), Cache(tmp_path), 10, progress)


RIGHT = {"weight": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)}
WRONG = {**RIGHT, "weight": -RIGHT["weight"]}


def candidate(weights, name="the sum") -> Candidate:
    return Candidate(weights, digest(weights.items()), name)


def score(scorer: Scorer, weights, split="val") -> Score:
    (scores,) = scorer.scores([Job(Points(), split, lambda: [candidate(weights)])])
    return scores[0]


def test_a_score_is_counted_once_and_cached(tmp_path):
    progress = RecordedProgress()
    first = make_scorer(tmp_path, progress)
    assert score(first, RIGHT) == Score(64, 64) and first.computed == 1 and sum(count for _, count in progress.reports) == 64
    assert "the sum on points (val)" in progress.reports[0][0]
    again = make_scorer(tmp_path, progress)
    assert score(again, RIGHT) == Score(64, 64) and again.computed == 0
    assert sum(count for _, count in progress.reports) == 128  # cached scores count as done, too
    assert score(again, RIGHT, "test").count == 64 and again.computed == 1


def test_several_candidates_are_scored_in_one_pass_over_the_data(tmp_path):
    scorer, passes = make_scorer(tmp_path), []
    batches = scorer.family.batches
    scorer.family.batches = lambda task, split, size, span: passes.append(span) or batches(task, split, size, span)
    score(scorer, RIGHT)
    assert passes == [range(0, 40), range(40, 64)]
    jobs = [Job(Points(), "val", lambda: [candidate(RIGHT), candidate(WRONG), candidate(scorer.family.pretrained)])]
    ((right, wrong, start),) = scorer.scores(jobs)
    assert (right, wrong) == (Score(64, 64), Score(0, 64))
    assert start == score(make_scorer(tmp_path / "else"), scorer.family.pretrained)
    assert len(passes) == 4 and scorer.computed == 3  # one more pass, for the two that were new


def test_a_killed_run_keeps_the_spans_it_had_scored(tmp_path):
    class Killed(Exception):
        pass

    scorer = make_scorer(tmp_path)
    batches = scorer.family.batches

    def end_in_second_span(task, split, size, span):
        if span.start:
            raise Killed
        return batches(task, split, size, span)

    scorer.family.batches = end_in_second_span
    with pytest.raises(Killed):
        score(scorer, RIGHT)
    again, passes = make_scorer(tmp_path), []
    batches = again.family.batches
    again.family.batches = lambda task, split, size, span: passes.append(span) or batches(task, split, size, span)
    assert score(again, RIGHT) == Score(64, 64) and passes == [range(40, 64)]


def test_scores_of_another_precision_are_not_taken_for_these(tmp_path):
    score(make_scorer(tmp_path), RIGHT)
    other = make_scorer(tmp_path)
    other.family.precision = "bf16"
    assert score(other, RIGHT).count == 64 and other.computed == 1


def test_a_spoiled_cache_file_counts_as_absent(tmp_path):
    cache = Cache(tmp_path)
    assert cache.get("scores", ["a"], lambda: 1) == 1 and cache.get("scores", ["a"], lambda: 2) == 1
    (file,) = (tmp_path / "scores").iterdir()
    file.write_text(file.read_text()[:9])
    assert cache.get("scores", ["a"], lambda: 3) == 3 and cache.get("scores", ["b"], lambda: 4) == 4


def test_a_checkpoint_is_read_again_only_when_its_file_changed(tmp_path):
    cache, path = Cache(tmp_path / "cache"), tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}, path)
    summary = cache.summary(open_checkpoint(path))
    assert summary.non_finite == ["b"] and cache.summary(open_checkpoint(path)) == summary
    save_file({"a": torch.ones(4), "b": torch.zeros(2)}, path)
    assert cache.summary(open_checkpoint(path)).digest != summary.digest


def run_search(method, accuracy, strategy="grid", reference=None):
    """Return the coefficients, the curve, and the groups in which coefficients were measured."""
    tasks, requests = list(next(iter(accuracy.values()))), []

    def measure(coefficients):
        requests.append(list(coefficients))
        return [accuracy[coefficient] for coefficient in coefficients]

    reference = reference or dict.fromkeys(tasks, 1.0)
    return *search(method, method.coefficients(len(tasks)), STRATEGIES[strategy], measure, reference, reference), requests


def test_each_checkpoint_is_read_by_one_process_of_the_group(tmp_path):
    class First(ProcessGroup):
        def all_gather(self, value):
            others = ContentSummary("digest of b", [])
            return [value, {"b": others}]

    save_file(RIGHT, tmp_path / "a.safetensors")
    save_file(WRONG, tmp_path / "b.safetensors")
    checkpoints = {name: open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"}
    scorer = replace(make_scorer(tmp_path), group=First(rank=0, size=2, local_rank=0))
    evaluator = Evaluator(scorer, {"Points": Points()}, checkpoints, None)
    assert evaluator.finetuned_digests == {"a": digest(RIGHT.items()), "b": "digest of b"}
    assert evaluator.on([]).summaries is evaluator.summaries and evaluator.single_process().summaries is evaluator.summaries


def test_entries_of_the_pretrained_model_are_hashed_once(tmp_path, monkeypatch):
    family = build_family(config := compose_config([f"cache_dir={tmp_path}"]), paths_of(config), torch.device("cpu"))
    hashed = []
    count = lambda key, leaf: hashed.append(key) or entry_digest(key, leaf)  # noqa: E731
    for module in (model, evaluator):
        monkeypatch.setattr(module, "entry_digest", count)
    scorer = Scorer(family, Cache(tmp_path), 64)
    vector = TaskVector.of({"model.visual.proj": torch.ones(family.pretrained["model.visual.proj"].shape)})
    for task in ("a", "b"):
        candidate = Evaluator(scorer, {}, {}, None).on([])._merged({task: vector}, "merged")(task)
        assert candidate.digest == digest(candidate.weights.items())
    assert len(hashed) == len(family.pretrained) + 2 and hashed.count("model.visual.proj") == 3


def test_search_takes_the_first_of_equals_and_keeps_the_curve():
    method = Sum(k=100, grid=[0.1, 0.2, 0.3, 0.4])
    accuracy = {0.1: {"a": 0.2}, 0.2: {"a": 0.6}, 0.3: {"a": 0.6}, 0.4: {"a": 0.1}}
    calls = []
    finetuned = LazyAccuracies(("a",), lambda: calls.append("once") or {"a": 0.8})
    best, curve, requests = run_search(method, accuracy, reference=finetuned)
    assert best == {"a": 0.2} and [point.coefficient for point in curve] == [0.1, 0.2, 0.3, 0.4]
    assert curve[1].objective == pytest.approx(0.75) and calls == ["once"]
    assert requests == [[0.1, 0.2, 0.3, 0.4]]  # all at once, so that they share their passes over the data


def test_a_method_with_a_vector_for_each_task_gets_a_coefficient_for_each():
    method = TallMask(base=Sum(k=100, grid=[1.0]), grid=[0.2, 0.3, 0.4])
    accuracy = {0.2: {"a": 0.5, "b": 0.9}, 0.3: {"a": 0.7, "b": 0.9}, 0.4: {"a": 0.7, "b": 0.1}}
    merges = MergeFamily(lambda coefficient: {"a": coefficient, "b": coefficient})
    best, _, _ = run_search(method, accuracy)
    assert best == {"a": 0.3, "b": 0.2} and merges.at(best) == {"a": 0.3, "b": 0.2}
    assert run_search(method, accuracy, "golden")[0] == best


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 15, 21, 30])
def test_golden_search_finds_every_peak_of_one_with_fewer_looks(count):
    grid = [round(0.1 * (number + 1), 1) for number in range(count)]
    for peak in range(count):
        accuracy = {coefficient: {"a": 0.9 - 0.01 * abs(number - peak) ** 1.3} for number, coefficient in enumerate(grid)}
        best, curve, requests = run_search(Sum(k=100, grid=grid), accuracy, "golden")
        assert best == {"a": grid[peak]}
        assert len(curve) == len({c for group in requests for c in group}) == sum(map(len, requests))  # none is measured twice
        assert [point.coefficient for point in curve] == sorted(point.coefficient for point in curve)
        assert len(curve) <= min(count, 2 * math.sqrt(count) + 2)


def test_golden_search_is_not_misled_by_a_flat_start_or_a_second_peak():
    for heights in ([0.5] * 9 + [0.6], [0.5, 0.7, 0.6, 0.5, 0.5, 0.6, 0.9, 0.8, 0.7, 0.6], list(reversed([0.5] * 9 + [0.6]))):
        grid = [round(0.1 * (number + 1), 1) for number in range(10)]
        accuracy = {c: {"a": height} for c, height in zip(grid, heights)}
        for order in (grid, grid[::-1]):  # single_task with LiNeS goes down
            method = Sum(k=100, grid=order)
            assert run_search(method, accuracy, "golden")[0] == run_search(method, accuracy)[0]


def test_golden_search_climbs_to_the_first_of_a_flat_top():
    grid = [round(0.1 * (number + 1), 1) for number in range(15)]
    accuracy = {c: {"a": min(0.8, 0.5 + c, 2.1 - c)} for c in grid}
    assert (
        run_search(Sum(k=100, grid=grid), accuracy, "golden")[0] == run_search(Sum(k=100, grid=grid), accuracy)[0] == {"a": 0.3}
    )


def test_scores_between_0_and_1_have_their_own_variance():
    values = [0.0, 0.25, 1.0, 1.0, 0.5]
    score = Score(0, 0).plus([2.25, 2.0625], 4).plus([0.5, 0.25], 1)
    assert score == Score(2.75, 5, 2.3125) and score.accuracy == sum(values) / 5
    assert score.variance == pytest.approx(statistics.pvariance(values) / 5)
    assert Score(3, 4).variance == Score(3, 4, 3).variance == 0.75 * 0.25 / 4
    assert Score(0, 0).plus(3, 4).plus([0.5, 0.25], 1) == Score(3.5, 5, 3.25)
    assert Score(3, 4).record() == {"right": 3, "count": 4, "accuracy": 0.75}
    assert score.record()["squares"] == 2.3125


def test_scores_between_0_and_1_are_cached_with_their_squares(tmp_path):
    family = LinearFamily()

    class Halves:
        def scores(self, batch):
            return torch.full((len(batch),), 0.5)

    family.predictor = lambda weights, precision=None: Halves()
    for computed in (1, 0):
        scorer = Scorer(family, Cache(tmp_path), batch_size=16)
        ((found,),) = scorer.scores([Job(Points(), "test", lambda: [Candidate({}, "halves", "halves")])])
        assert found == Score(32.0, 64, 16.0) and scorer.computed == computed
