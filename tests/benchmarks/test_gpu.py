"""The benchmark of GPUs at small size on the CPU: every method has a row, and a row that fails stops no other."""

import json
import time

import pytest
import torch

from benchmarks.evaluate import prediction_rate
from benchmarks.gpu import BASELINES, OPTIONS, Bench, methods
from benchmarks.noise import noise_batch, prediction_flops, random_family, training_flops
from benchmarks.rows import Report, Row
from command_line.build import build_method
from command_line.config import ROOT, compose_config


@pytest.fixture
def report(tmp_path) -> Report:
    return Report(tmp_path, "gpu", {"device": "card", "torch": "2"})


def test_a_row_is_written_when_it_is_measured_and_a_failing_one_stops_no_other(report, capsys):
    def fail() -> dict:
        assert "first" in (report.folder / "gpu.md").read_text()
        raise RuntimeError("out of memory\nand more")

    for row in (Row("merge", "first", lambda: {"seconds": 0.12345}), Row("merge", "second", fail),
                Row("train", "third", lambda: {"images/s": 12345.6, "why": "a|b"})):  # fmt: skip
        report.add(row)
    assert report.failures == ["merge, second"]
    assert capsys.readouterr().out.count("\n") == 3
    kept = json.loads((report.folder / "gpu.json").read_text())
    assert kept["facts"]["device"] == "card" and [row["name"] for row in kept["rows"]] == ["first", "second", "third"]
    assert kept["rows"][0]["figures"] == {"seconds": 0.12345}
    assert (report.folder / "gpu.md").read_text() == (
        "# card\n\ntorch 2\n\n## merge\n\n|  | seconds | failed |\n| --- | ---: | ---: |\n| first | 0.123 |  |\n"
        "| second |  | RuntimeError: out of memory |\n\n## train\n\n|  | images/s | why |\n| --- | ---: | ---: |\n"
        "| third | 12,346 | a/b |\n"
    )


def test_no_row_is_begun_when_the_minutes_are_over(tmp_path):
    late = Report(tmp_path, "gpu", {"device": "card"}, time.monotonic() - 1)
    late.add(Row("merge", "first", lambda: pytest.fail("it was begun")))
    assert late.rows[0]["figures"] == {"skipped": "the minutes were over"} and not late.failures


def test_every_method_that_merges_has_a_row():
    described = [repr(method.description) for method in methods().values()]
    assert len(set(described)) == len(described)
    for path in (ROOT / "config/method").glob("*.yaml"):
        method = build_method(compose_config([f"method={path.stem}", *OPTIONS.get(path.stem, [])]))
        merges_alone = path.stem not in BASELINES and method.needs_models and not method.unlabelled_split
        assert (repr(method.description) in described) is merges_alone, path.stem


# One of each kind: elementwise, by masks, by matrices, by statistics, and from the memory of the host.
MERGED = ("sum", "tall_mask", "TSVM", "regmean", "sum, from host memory")


def test_rows_at_small_size_on_the_cpu(report, tmp_path):
    bench = Bench(torch.device("cpu"), tmp_path, small=True)
    rows = {(row.section, row.name): row for row in bench.rows()}
    assert {section.split(",")[0] for section, _ in rows} == {"device", "tests", "merge", "predict", "train", "statistics"}
    for row in rows.values():
        if (
            row.section.startswith("device")
            or (row.section.startswith("merge, 2") and row.name in MERGED)
            or row.name in ("ViT-demo, bf16", "lora", "ViT-demo, batches of 8")
        ):
            report.add(row)
    assert not report.failures and len(report.rows) == len(MERGED) + 4
    for row in report.rows:
        assert all(value >= 0 for value in row["figures"].values()), row
    seconds = [row["figures"]["seconds"] for row in report.rows if row["section"].startswith("merge")]
    assert min(seconds) > 0


def test_a_step_of_training_takes_three_times_the_operations_of_predicting(tmp_path):
    family = random_family("ViT-B-32", torch.device("cpu"), tmp_path)
    batch = noise_batch(family, 1)
    assert training_flops(family, batch) / prediction_flops(family, batch) == pytest.approx(3, rel=0.05)


def test_predictions_of_one_precision_are_equal_to_themselves(tmp_path):
    family, again = (random_family("ViT-B-32", torch.device("cpu"), tmp_path / name) for name in "ab")
    assert prediction_rate(family, again, "fp32", 4, 1)[1] == 0
    demo = random_family("ViT-demo", torch.device("cpu"), tmp_path)
    assert prediction_rate(demo, demo, "bf16", 256, 1)[1] > 0
