from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from src.merging.engine import selection as module
from src.merging.engine.order_statistics import INTEGERS, Scan, counted, from_ordered, ordered
from src.merging.engine.selection import brackets_of, selected


def scan_of(numbers: Tensor) -> Scan:
    def scan(visit: Callable, step: int = 1) -> Iterable:
        return (visit(ordered(part[:, ::step].clone())) for part in numbers.split(3000, 1))

    return scan


def sets_of_numbers(dtype: torch.dtype) -> Tensor:
    """Signed, with many equal ones, none of them negative, all equal, most of them zero."""
    numbers = torch.randn(5, 10_000, dtype=dtype)
    numbers[1] = numbers[1].mul(3).round()
    numbers[2] = numbers[2].abs()
    numbers[3] = -2.5
    numbers[4] *= torch.rand(10_000) < 0.1
    return numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_are_ordered_as_the_numbers_are(dtype):
    numbers = torch.tensor([-torch.inf, -2.0, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3.0, torch.inf], dtype=dtype)
    integers = ordered(numbers.clone())
    assert (integers.diff() > 0).all() and integers[5] == 0
    assert torch.equal(from_ordered(integers, dtype), numbers)


@pytest.mark.parametrize("zeros", [0, 20, 7000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_a_rank_is_the_one_that_sorting_finds(dtype, zeros):
    numbers = sets_of_numbers(dtype)
    tasks, size = len(numbers), numbers.shape[1] + zeros
    ranks = [
        1,
        2,
        size // 100,
        size // 3,
        size // 2 - 200,
        size // 2,
        size // 2 + 200,
        int((numbers[0] < 0).sum()) + 10,
        size * 19 // 20,
        size - 1,
        size,
    ]
    whole = torch.cat([numbers, torch.zeros(tasks, zeros, dtype=dtype)], 1).sort(1).values
    expected = whole[:, torch.tensor(ranks) - 1].tolist()
    found = counted(scan_of(numbers), tasks, ranks, zeros, INTEGERS[dtype])
    assert from_ordered(found, dtype).tolist() == expected
    assert torch.equal(selected(scan_of(numbers), tasks, ranks, size, zeros, INTEGERS[dtype]), found)
    for row, of_row in zip(numbers, found):  # alone, of which none is counted because of another
        for rank, integer in zip(ranks, of_row):
            assert selected(scan_of(row[None]), 1, [rank], size, zeros, INTEGERS[dtype]) == integer


def test_a_sample_of_smooth_numbers_is_enough(monkeypatch):
    monkeypatch.setattr(module, "counted", None)
    numbers = torch.randn(2, 10_000)
    found = from_ordered(selected(scan_of(numbers), 2, [200, 9500, 10_000], 10_000, 0, torch.int32), torch.float32)
    assert found.tolist() == numbers.sort(1).values[:, [199, 9499, 9999]].tolist()


def test_a_sample_whose_runs_are_alike_is_trusted_less():
    """Runs as different as layers are: each run's numbers are near one another, and so tell little of all."""
    numbers = torch.randn(400, 1).add(0.1 * torch.randn(400, module.RUN)).mul(1e6).int()
    step = 3
    taken = numbers[::step].reshape(-1)
    rank = int(0.8 * numbers.numel())
    (bracket,) = brackets_of(taken, [rank], numbers.numel(), 0)
    exact = numbers.flatten().sort().values[rank - 1]
    assert bracket.low < exact < bracket.high
    (of_mixed,) = brackets_of(taken[torch.randperm(len(taken))], [rank], numbers.numel(), 0)
    assert bracket.high - bracket.low > 5 * (of_mixed.high - of_mixed.low)


def test_where_the_sample_misleads_the_number_is_counted():
    numbers = torch.randn(1, 10_000)
    numbers[:, :: module.LEAST_STEP] += 100  # which a slice's sample starts with, and goes on with where slices allow
    found = from_ordered(selected(scan_of(numbers), 1, [5000], 10_000, 0, torch.int32), torch.float32)
    assert found.item() == numbers.sort(1).values[0, 4999]


def test_of_no_numbers_but_zeros_all_are_zero():
    assert selected(lambda visit, step=1: iter(()), 2, [1, 5], 5, 5, torch.int32).tolist() == [[0, 0], [0, 0]]


def test_a_bracket_that_holds_more_than_its_sample_showed_is_counted(monkeypatch):
    monkeypatch.setattr(
        module, "brackets_of", lambda *args: [replace(bracket, kept=bracket.kept[:3]) for bracket in brackets_of(*args)]
    )
    numbers = torch.randn(1, 10_000)
    found = from_ordered(selected(scan_of(numbers), 1, [5000], 10_000, 0, torch.int32), torch.float32)
    assert found.item() == numbers.sort(1).values[0, 4999]
