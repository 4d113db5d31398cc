from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from src.merging.engine.order_statistics import INTEGERS, from_ordered, order_statistics, ordered


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_are_ordered_as_the_numbers_are(dtype):
    numbers = torch.tensor([-torch.inf, -2.0, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3.0, torch.inf], dtype=dtype)
    integers = ordered(numbers.clone())
    assert (integers.diff() > 0).all() and integers[5] == 0
    assert torch.equal(from_ordered(integers, dtype), numbers)


@pytest.mark.parametrize("unseen", [0, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_a_rank_is_the_one_that_sorting_finds(dtype, unseen):
    numbers = torch.randn(3, 1000, dtype=dtype)
    numbers[1] = numbers[1].mul(3).round()  # many equal ones
    numbers[2] = numbers[2].abs()
    size, ranks = 1000 + unseen, [1, 17, 400, 1000, 1000 + unseen]

    def scan(visit: Callable[[Tensor], Tensor]) -> Iterable[Tensor]:
        return (visit(ordered(part.clone())) for part in numbers.split(300, 1))

    found = from_ordered(order_statistics(scan, 3, ranks, size, INTEGERS[dtype]), dtype)
    whole = torch.cat([numbers, torch.zeros(3, unseen, dtype=dtype)], 1).sort(1).values
    assert found.tolist() == whole[:, torch.tensor(ranks) - 1].tolist()
