import pytest

from src.reports.page.budget import budget
from tests.reports.page.records import written

STATISTICS = {"split": "val", "examples": 1000, "labels": "empirical", "seed": 0}
FISHER = {"_target_": "src.merging.fisher.Fisher"}
REGMEAN = {"_target_": "src.merging.regmean.RegMean"}
CG = {"_target_": "src.merging.cg.ConjugateGradient"}


@pytest.mark.parametrize(
    ("record", "uses"),
    [
        ({}, set()),
        ({"evaluations": {"made": 0, "grid": 0}, "validation": [], "storage": None}, set()),
        ({"evaluations": {"made": 10, "grid": 10}}, {"labels", "data"}),
        ({"validation": [{"coefficient": 0.1}]}, {"labels", "data"}),  # before evaluations were recorded
        ({"lineage": {"masks": "digest"}}, {"labels", "data"}),
        ({"lineage": {"masks": "digest"}, "question": {"method": {"mask_lambda": 0.4}}}, set()),
        ({"storage": {"bytes": 8}}, {"identity"}),
        ({"data": "unlabelled test", "uses_gradients": True}, {"data", "gradients"}),
        ({"data": "none", "uses_gradients": False}, set()),
        ({"question": {"method": REGMEAN, "statistics": STATISTICS}, "uses_gradients": False}, {"data", "statistics"}),
        ({"question": {"method": REGMEAN, "statistics": STATISTICS}}, {"labels", "data", "statistics", "gradients"}),  # it may
        ({"question": {"method": CG, "statistics": STATISTICS}, "uses_gradients": False}, {"data", "statistics"}),
        ({"question": {"method": CG, "statistics": STATISTICS}, "uses_gradients": True}, {"labels", "data", "statistics", "gradients"}),
        ({"question": {"method": FISHER, "statistics": STATISTICS}}, {"labels", "data", "statistics", "gradients"}),
        ({"question": {"method": FISHER, "statistics": {**STATISTICS, "labels": "expected"}}}, {"data", "statistics", "gradients"}),
    ],
)  # fmt: skip
def test_what_a_merge_uses_follows_from_its_record(record, uses):
    assert set(budget(record)) == uses


def test_of_records_as_they_are_written():
    records = written()
    assert set(budget(records["ties"])) == {"labels", "data"}
    assert set(budget(records["tall_mask"])) == {"labels", "data", "identity"}
    assert set(budget(records["sum"])) == set()  # its coefficient was specified
    assert "15 coefficients" in budget(records["ties"])["labels"]
