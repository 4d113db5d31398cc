"""Batches of one tensor or several: parts of them, and several as one."""

import torch

from src.models.family import Batch


def test_examples_are_taken_from_every_input():
    batch = Batch(
        "t", {"ids": torch.arange(12).view(4, 3), "mask": torch.ones(4, 3)}, torch.arange(4), [["a"], ["b"], ["c"], ["d"]]
    )
    part = batch.take(torch.tensor([2, 0]))
    assert part.inputs["ids"].tolist() == [[6, 7, 8], [0, 1, 2]] and part.labels.tolist() == [2, 0]
    assert part.references == [["c"], ["a"]] and len(part) == 2
    assert [len(each) for each in Batch("t", torch.zeros(5, 2), torch.zeros(5)).split(2)] == [2, 2, 1]


def test_batches_of_other_lengths_are_joined_by_zeros_at_the_end():
    short = Batch("t", {"ids": torch.tensor([[1, 2]]), "choices": torch.tensor([[[3], [4]]])}, torch.tensor([1]), [["x"]])
    long = Batch("t", {"ids": torch.tensor([[5, 6, 7]]), "choices": torch.tensor([[[8, 9]]])}, torch.tensor([0]), [["y"]])
    joined = Batch.joined([short, long])
    assert joined.inputs["ids"].tolist() == [[1, 2, 0], [5, 6, 7]]
    assert joined.inputs["choices"].tolist() == [[[3, 0], [4, 0]], [[8, 9], [0, 0]]]
    assert joined.labels.tolist() == [1, 0] and joined.references == [["x"], ["y"]]
    pixels = [Batch("t", torch.full((2, 3), value), torch.zeros(2)) for value in (1.0, 2.0)]
    assert Batch.joined(pixels).inputs.tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
