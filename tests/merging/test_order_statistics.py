from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from src.merging.engine import inputs as inputs_module
from src.merging.engine import selection as module
from src.merging.engine.order_statistics import INTEGERS, Scan, counted, from_ordered, ordered
from src.merging.engine.selection import brackets_of, selected
from tests.conftest import merge_inputs


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


def test_where_the_sample_misleads_the_number_is_counted(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "counted", lambda *args: calls.append(1) or counted(*args))
    numbers = torch.randn(1, 10_000)
    numbers[:, :: module.LEAST_STEP] += 100  # which is all of the sample
    found = selected(lambda visit, step=1: [visit(ordered(numbers[:, ::step].clone()))], 1, [5000], 10_000, 0, torch.int32)
    assert calls and from_ordered(found, torch.float32).item() == numbers.sort(1).values[0, 4999]


def test_a_bracket_that_holds_more_than_its_sample_showed_has_no_number():
    row = torch.arange(100, dtype=torch.int32)
    whole, small = (module.Bracket(20, 60, torch.empty(room, dtype=torch.int32)) for room in (39, 3))
    for bracket in (whole, small):
        bracket.add(row[:50])
        bracket.add(row[50:])
    assert [whole.number(rank, 0) for rank in (20, 21, 22, 60, 61, 62)] == [None, 20, 21, 59, 60, None]
    assert [small.number(rank, 0) for rank in (20, 21, 22, 60, 61, 62)] == [None, 20, None, None, 60, None]


def test_what_would_not_fit_is_counted(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROOM", 1000)
    monkeypatch.setattr(module.Bracket, "add", None)
    numbers = torch.randn(2, 10_000)
    found = from_ordered(selected(scan_of(numbers), 2, [200], 10_000, 0, torch.int32), torch.float32)
    assert found[:, 0].tolist() == numbers.sort(1).values[:, 199].tolist()


def test_steps_are_prime():
    assert [module._prime_from(least) for least in (37, 38, 39, 63, 147, 1)] == [37, 41, 41, 67, 149, 2]


@pytest.mark.parametrize("kind", ["float", "bfloat16", "sparse", "layers"])
def test_no_pass_is_repeated_for_vectors_as_there_are(kind, monkeypatch):
    """Numbers of one parameter a layer, read by two threads in runs, of every rank that methods ask for."""
    monkeypatch.setattr(module, "counted", None)
    monkeypatch.setitem(inputs_module.SLICE_BYTES, "cpu", 2**16)
    draw = torch.Generator().manual_seed(3)
    shapes = {f"blocks.{number}.w": (260 + number, 768) for number in range(6)}
    pretrained = {key: 0.02 * torch.randn(shape, generator=draw) for key, shape in shapes.items()} | {"still": torch.zeros(5000)}
    finetuned = {task: {} for task in "abc"}
    for model in finetuned.values():
        for number, key in enumerate(shapes):
            change = 5e-4 * torch.randn(shapes[key], generator=draw) * (2.0**number if kind == "layers" else 1)
            if kind == "sparse":
                change *= torch.rand(shapes[key], generator=draw) < 0.2
            model[key] = pretrained[key] + change
        model["still"] = pretrained["still"]
    if kind == "bfloat16":
        pretrained, *others = (
            {key: leaf.bfloat16() for key, leaf in model.items()} for model in (pretrained, *finetuned.values())
        )
        finetuned = dict(zip(finetuned, others))
    inputs = merge_inputs((pretrained, finetuned))
    magnitudes = torch.stack([torch.cat([(model[key].float() - pretrained[key].float()).abs().flatten() for key in pretrained])
                              for model in finetuned.values()]).sort(1).values  # fmt: skip
    ranks = [1, inputs.size // 100, inputs.size // 2, inputs.size * 4 // 5, inputs.size * 9 // 10, inputs.size - 1, inputs.size]

    def scan(visit: Callable, step: int = 1) -> Iterable:
        return inputs.scan_together(lambda stack: visit(stack.abs_().view(torch.int32)), step)

    found = selected(scan, 3, ranks, inputs.size, inputs.unchanged_size, torch.int32).view(torch.float32)
    assert torch.equal(found, magnitudes[:, torch.tensor(ranks) - 1])


def test_of_no_numbers_but_zeros_all_are_zero():
    assert selected(lambda visit, step=1: iter(()), 2, [1, 5], 5, 5, torch.int32).tolist() == [[0, 0], [0, 0]]
