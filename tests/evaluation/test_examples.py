"""Scores of single examples, as text and through the scorer."""

import numpy as np
import pytest
import torch

from src.evaluation.cache import Cache
from src.evaluation.examples import decode, encode
from src.evaluation.scorer import Candidate, Job, Scorer
from src.state_dict import digest
from tests.helpers.linear_family import LinearFamily, Points

RIGHT = {"weight": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)}


@pytest.mark.parametrize("scores", [[], [1], [0, 1, 1, 0, 0, 0, 0, 1, 1], [0.5, 1, 0, 1 / 3]])
def test_scores_come_back_from_text(scores):
    assert np.array_equal(decode(encode(np.array(scores, dtype=float))), np.array(scores, dtype="f4"))


def test_a_score_of_0_or_1_takes_a_bit():
    assert len(encode(np.ones(8000))) < 1400


@pytest.mark.parametrize("text", ["", "bits 9 gA==", "bits 8 g", "floats 3 gA==", "bytes 8 gA==", "floats 1 eJwDAAAAAAE="])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError):
        decode(text)


def test_a_candidate_that_asks_has_the_scores_of_its_examples_from_the_model_or_the_cache(tmp_path):
    family, weights = LinearFamily(), {**RIGHT, "weight": torch.tensor([[-1.0, 0.5], [1.0, 0.0]])}
    plain = Candidate(weights, digest(weights.items()), "a model")
    asking = Candidate(weights, plain.digest, "a model", with_examples=True)

    def score(candidate):
        scorer = Scorer(family, Cache(tmp_path), 10)
        return scorer.scores([Job(Points(), "test", lambda: [candidate])])[0][0], scorer.computed

    without, _ = score(plain)
    assert without.examples is None and "examples" not in without.record()
    first, computed = score(asking)  # scores alone do not tell which examples they are of
    again, found = score(asking)
    assert (computed, found) == (1, 0) and np.array_equal(first.examples, again.examples)
    assert first == without and first.examples.sum() == first.right and len(first.examples) == first.count
    assert 0 < first.right < first.count and decode(first.record()["examples"]).sum() == first.right
    for file in (tmp_path / "examples").iterdir():
        file.write_text(file.read_text().replace("bits", "bats"))
    assert score(asking)[1] == 1
