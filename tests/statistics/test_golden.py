"""Statistics of the golden T5 against those of MaTS' released code, whose fingerprints stand in stats.json."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from src.statistics.collection import StatisticsSettings, collect
from tests.helpers.likely_families import ia3_family, text_family
from tests.helpers.text_models import GOLDEN, GoldenTask, golden_json, padded

CASES = golden_json("stats.json")["cases"]
SETTINGS = StatisticsSettings(split="val", examples=1000, labels="empirical", seed=0)


class FixedAnswers:
    """A family that draws the answers of the released code."""

    def __init__(self, family, answers):
        self._family, self._left = family, list(answers)

    def __getattr__(self, name):
        return getattr(self._family, name)

    def sampled(self, entries, batch, generators):
        answers, self._left = self._left[: len(batch)], self._left[len(batch) :]
        return replace(batch, inputs={**batch.inputs, "target": padded(answers)})


def fingerprint(leaf):
    """The norm, and the products with two waves."""
    values = leaf.double().flatten()
    waves = torch.arange(1, values.numel() + 1).double()
    return [values.norm().item(), *((values * torch.cos(a * waves + b)).sum().item() for a, b in ((0.7, 0), (1.9, 0.5)))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[key] for key in ("task", "space", "kind", "labels")))
def test_statistics_are_those_of_the_released_code(case):
    task, space = case["task"], case["space"]
    family = {"full": text_family, "ia3": ia3_family}[space]()
    answers = golden_json("stats.json")["labels"][f"{space}/{task}"]
    entries = family.on_device(load_file(GOLDEN / "inputs" / f"{space}_{task}.safetensors"))
    run = partial(collect, FixedAnswers(family, answers), entries, GoldenTask(task), case["kind"])
    statistic = next(each for each in run(replace(SETTINGS, labels=case["labels"]), 5) if each.kind == case["kind"])
    found, means = {**statistic.aliases, **{name: name for name in statistic.sums}}, statistic.means
    expected = {name if space == "ia3" or "fisher" in case["kind"] else f"{name}.weight": numbers
                for name, numbers in case["fingerprints"].items()}  # fmt: skip
    assert set(found) == set(expected)
    for name, (norm, *products) in expected.items():
        here = fingerprint(means[found[name]])
        for number, wanted in zip(here, (norm, *products)):
            assert number == pytest.approx(wanted, rel=0, abs=4 * case["tolerance"] * norm), name
