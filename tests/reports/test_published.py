"""Verdicts on measured figures beside published ones, and paired comparisons."""

import numpy as np
import pytest

from src.evaluation.examples import encode
from src.reports.measures import MEASURES, Figure, mean_of, measure, over_seeds
from src.reports.published import AGREES, DIFFERS, NOT_COMPARABLE, Published, verdict_on
from src.reports.significance import paired_p_value
from tests.helpers.records import FINETUNED, merge_record, save_records

THEIRS = Published("74.2", "%", "tall-v2", "page-image", "page", "paper")


@pytest.mark.parametrize(("value", "verdict"), [(74.2, AGREES), (74.74, AGREES), (74.76, DIFFERS), (73.6, DIFFERS)])
def test_a_figure_agrees_within_its_interval_and_the_published_rounding(tmp_path, value, verdict):
    (record,) = save_records(tmp_path, merge_record(benchmark="tall-v2"))
    assert verdict_on(Figure(value, 0.5), THEIRS, [record]).name == verdict
    assert verdict_on(Figure(value, 0.5), THEIRS, [record], ["method.k=10"]).reason == "ours is with method.k=10"
    other = save_records(tmp_path / "other", merge_record(benchmark="tall-v1"))
    assert verdict_on(Figure(value, 0.5), THEIRS, [record, *other]).name == NOT_COMPARABLE
    vague = verdict_on(Figure(value, 9.0, 3.0), THEIRS, [record])
    assert vague.name == NOT_COMPARABLE and "too wide" in vague.reason


@pytest.mark.parametrize(
    ("changes", "benchmark", "reason"),
    [
        ({}, "tall-v2", "ours is of the benchmark own, the published one of tall-v2"),
        ({"benchmark": "tall-v1"}, "tall-v2", "ours is of the benchmark tall-v1"),
        ({"benchmark": "tall-v2"}, "", "nothing says which models"),
        ({"benchmark": "tall-v2", "lineage": {"heads_from": {"A": "prompts"}}}, "tall-v2", "built from prompts"),
        ({"benchmark": "tall-v2", "question": {"precision": "bf16"}}, "tall-v2", "scored in bf16"),
    ],
)
def test_figures_of_different_models_data_heads_or_precision_are_not_compared(tmp_path, changes, benchmark, reason):
    (record,) = save_records(tmp_path, merge_record(**changes))
    theirs = Published("74.2", "%", benchmark, "file", "page", "paper")
    verdict = verdict_on(Figure(74.2, 0.5), theirs, [record])
    assert verdict.name == NOT_COMPARABLE and reason in verdict.reason


def test_every_measure_of_a_record_without_it_is_none(tmp_path):
    (empty, whole) = save_records(tmp_path, {"question": {}, "name": "a"}, merge_record())
    assert all(measure(name, empty) is None for name in MEASURES)
    found = {name: figure.value for name in MEASURES if (figure := measure(name, whole))}
    assert found["merged"] == pytest.approx(90) and found["megabytes"] == 4 and found["megabytes_separate"] == 8
    assert found["gigabits"] == pytest.approx(0.032) and found["coefficient"] == 0.3 and "target_merged" not in found


def test_single_tasks_are_measured_on_their_target_and_on_the_others(tmp_path):
    record = merge_record(summary={"target A": 0.9, "mean control": 0.2})
    record["test"]["B"]["merged"] = {"right": 2, "count": 10, "accuracy": 0.2}
    (saved,) = save_records(tmp_path, record)
    assert measure("target_merged", saved).value == pytest.approx(90)
    assert measure("control_merged", saved).value == pytest.approx(20)
    assert measure("control_zeroshot", saved).value == pytest.approx(20)


def test_means_over_tasks_are_surer_than_one_and_means_over_seeds_have_a_spread():
    assert mean_of("target_merged", [Figure(10, 3), Figure(20, 4)]) == Figure(15, 2.5)
    assert mean_of("control_merged", [Figure(10, 3), Figure(20, 4)]) == Figure(15, 3.5)  # of the same data each time
    assert mean_of("target_merged", [Figure(10, 3), Figure(20)]).half_width is None
    seeds = over_seeds([Figure(10, 1), Figure(12, 1), Figure(14, 1)])
    assert (seeds.value, seeds.spread) == (12, 2) and str(seeds) == "12.0 ± 2.0"
    assert seeds.half_width == pytest.approx(4.302653 * 2 / 3**0.5)  # of the mean of three, by Student's t
    assert over_seeds([Figure(10, 1)]) == Figure(10, 1)


def test_a_pair_is_compared_on_the_same_examples_by_hand(tmp_path):
    one, other = [1, 1, 1, 0, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 1, 1, 0, 0]
    first, second = save_records(tmp_path, merge_record("a", one), merge_record("b", other))
    difference = np.subtract(one, other)  # one of ten examples, in each of two tasks
    z = difference.mean() / np.sqrt(2 * difference.var() / 10 / 4)
    from statistics import NormalDist

    assert paired_p_value(first, second) == pytest.approx(2 * NormalDist().cdf(-z))
    assert paired_p_value(first, second) == paired_p_value(second, first) and paired_p_value(first, first) == 1.0


def test_what_was_not_scored_on_the_same_examples_is_not_paired(tmp_path):
    bare = merge_record("bare")
    for scores in bare["test"].values():
        del scores["merged"]["examples"]
    broken = merge_record("broken")
    broken["test"]["A"]["merged"]["examples"] = "bits 10 !"
    shorter = merge_record("shorter")
    shorter["test"]["A"]["merged"]["examples"] = encode(np.ones(9))
    others = [bare, broken, shorter, merge_record("moved", lineage={"data": {"A": {"test": "z"}, "B": {"test": "b"}}}),
              merge_record("fewer", test={"A": merge_record()["test"]["A"]}), merge_record("unsaid", lineage={})]  # fmt: skip
    folder = tmp_path / "others"
    (base,) = save_records(tmp_path, merge_record("base", FINETUNED))
    assert [paired_p_value(base, other) for other in save_records(folder, *others)] == [None] * len(others)
