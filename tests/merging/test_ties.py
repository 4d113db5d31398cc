import pytest
import torch

from src.merging.ties import Ties
from tests.conftest import merge_inputs


def merge(columns: list[list[float]], agg: str = "mean", k: float = 100) -> list[float]:
    """TIES of one parameter; `columns` holds each task's vector."""
    pretrained = {"w": torch.zeros(len(columns[0])), "blocks.0.w": torch.zeros(1)}
    finetuned = {f"t{i}": {"w": torch.tensor(row), "blocks.0.w": torch.zeros(1)} for i, row in enumerate(columns)}
    return Ties(k=k, agg=agg, grid=[1.0])(merge_inputs((pretrained, finetuned)))(1.0)["t0"]["w"].tolist()


def test_the_majority_sign_decides_and_entries_that_agree_are_averaged():
    assert merge([[3.0, 0.0], [1.0, -2.0], [-2.0, -4.0]]) == [2.0, -3.0]


def test_sum_and_max_of_entries_that_agree():
    columns = [[3.0, -1.0], [1.0, -2.0], [-2.0, 2.5]]
    assert merge(columns, "sum") == [4.0, -3.0]
    assert merge(columns, "max") == [3.0, -2.0]


def test_a_column_that_cancels_takes_the_sign_most_columns_have():
    assert merge([[2.0, 1.0, 1.0], [-2.0, 1.0, 1.0]]) == [2.0, 1.0, 1.0]
    assert merge([[2.0, -1.0, -1.0], [-2.0, -1.0, -1.0]]) == [-2.0, -1.0, -1.0]


def test_a_tied_vote_keeps_the_negative_entries_of_cancelling_columns():
    assert merge([[2.0, -1.0, 1.0], [-2.0, -1.0, 1.0]]) == [-2.0, -1.0, 1.0]


def test_trimming_is_over_the_whole_vector():
    # six entries with blocks.0.w; the third smallest magnitudes are 1 and 0.2, and what is as large stays
    assert merge([[1.0, 2.0, 3.0, 4.0, 0.5], [9.0, 0.1, 0.2, 8.0, 7.0]], k=50) == pytest.approx([5.0, 2.0, 1.6, 6.0, 7.0])


def test_a_vector_of_zeros_merges_to_zero():
    assert merge([[0.0, 0.0], [0.0, 0.0]], k=20) == [0.0, 0.0]


def test_unknown_ways_to_combine_are_refused():
    with pytest.raises(ValueError, match="mean, sum, max"):
        Ties(k=20, agg="median", grid=[1.0])
