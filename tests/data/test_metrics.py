"""Metrics of generated answers, against the published ones' figures."""

import json

import pytest
from pytest import approx

from src.data.text.metrics import exact_match, f1, squad
from tests.helpers.processes import ROOT

SQUAD = json.loads((ROOT / "tests/files/golden_text/squad.json").read_text())


@pytest.mark.parametrize("pair", SQUAD["pairs"], ids=lambda pair: pair["prediction"])
def test_exact_match_and_f1_are_those_of_squad(pair):
    prediction, answers = pair["prediction"], pair["answers"]
    expected = (pair["exact_match"], pair["f1"], (pair["exact_match"] + pair["f1"]) / 2)
    assert (exact_match(prediction, answers), f1(prediction, answers), squad(prediction, answers)) == approx(expected, abs=1e-15)


def test_a_corpus_scores_the_mean():
    for metric, name in ((exact_match, "exact_match"), (f1, "f1")):
        scores = [metric(pair["prediction"], pair["answers"]) for pair in SQUAD["pairs"]]
        assert sum(scores) / len(scores) == approx(SQUAD["corpus"][name], abs=1e-15)


def test_nothing_is_right_without_an_answer():
    assert squad("anything", ()) == 0
