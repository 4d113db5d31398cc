"""Decompositions against float64 singular value decompositions."""

import pytest
import torch
from torch import Generator, Tensor

from src.merging.engine import linear_algebra
from src.merging.engine.linear_algebra import (
    EPSILON,
    UNITS_FLOOR,
    concatenated,
    leading_triplets,
    leading_triplets_of_each,
    orthogonalised,
    polar_factor,
    singular_values,
    weights_floor,
)

SHAPES = [(48, 48), (96, 40), (40, 96), (1, 7), (450, 400)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def with_spectrum(values: Tensor, shape: tuple[int, int], seed: int) -> Tensor:
    """A random float32 matrix with these singular values."""
    left = torch.linalg.qr(draw(shape[0], min(shape), seed=seed).double())[0]
    right = torch.linalg.qr(draw(shape[1], min(shape), seed=seed + 1000).double())[0]
    return ((left * values.double()) @ right.T).float()


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def svd_product(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values[values <= weights_floor(matrix) * values[0]] = 0
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def svd_merge(stack: Tensor) -> Tensor:
    """TSV-M in float64, as the paper has it: singular value decompositions throughout."""
    rank = int(min(stack.shape[1:]) * (1 / len(stack)))
    left, values, right = zip(*(torch.linalg.svd(matrix.double(), full_matrices=False) for matrix in stack))
    left, right = torch.cat([u[:, :rank] for u in left], 1), torch.cat([v[:rank] for v in right])
    (a, _, b), (c, _, d) = (torch.linalg.svd(side, full_matrices=False) for side in (left, right))
    return (a @ b * torch.cat([s[:rank] for s in values])) @ (c @ d)


def merge(stack: Tensor) -> Tensor:
    rank = int(min(stack.shape[1:]) * (1 / len(stack)))
    return orthogonalised(concatenated(leading_triplets_of_each(stack, rank))).product


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steepness", [0.0, 1.0, 2.0], ids=["flat", "decaying", "steep"])
def test_leading_triplets_are_those_of_the_svd(shape, steepness):
    matrix = draw(*shape) if not steepness else with_spectrum(torch.arange(1, min(shape) + 1) ** -steepness, shape, 0)
    for rank in sorted({1, min(shape) // 3, min(shape)} - {0}):
        found = leading_triplets(matrix, rank)
        assert found.left.shape == (shape[0], rank) and found.right.shape == (shape[1], rank)
        assert distance(found.product, svd_product(matrix, rank)) < 1e-5
        units = found.left.double().T @ found.left.double()
        assert (units - torch.diag((found.values > 0).double())).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steepness", [0.0, 1.0], ids=["flat", "decaying"])
def test_a_polar_factor_is_that_of_the_svd(shape, steepness):
    matrix = draw(*shape) if not steepness else with_spectrum(torch.arange(1, min(shape) + 1) ** -steepness, shape, 0)
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert distance(polar_factor(matrix, weights_floor(matrix)), left @ right) < 1e-5


def test_a_polar_factor_of_low_rank_is_determined():
    matrix = draw(30, 4) @ draw(4, 20, seed=1)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert (values > 1e-5 * values[0]).sum() == 4
    assert distance(polar_factor(matrix, weights_floor(matrix)), left[:, :4] @ right[:4]) < 1e-5


def test_what_counts_as_zero_is_zero():
    found = leading_triplets(draw(30, 4) @ draw(4, 20, seed=1), 8)
    assert (found.values > 0).sum() == 4
    for side in (found.left, found.right):
        assert not side[:, 4:].any() and side[:, :4].norm(dim=0).allclose(torch.ones(4), atol=1e-5)
    for matrix in (torch.zeros(5, 3), torch.zeros(3, 5)):
        assert not any(part.any() for part in leading_triplets(matrix, 2)) and not polar_factor(matrix, 0.1).any()
    assert leading_triplets(draw(5, 3), 0).product.equal(torch.zeros(5, 3))


def test_singular_values_are_all_of_them_largest_first():
    matrix = draw(30, 4) @ draw(4, 20, seed=1)
    expected = torch.linalg.svdvals(matrix.double())
    found = singular_values(matrix)
    assert found.shape == (20,) and found[:4].allclose(expected[:4], rtol=1e-6) and not found[4:].any()


@pytest.mark.parametrize(
    "tasks,shape", [(3, (48, 48)), (4, (64, 24)), (5, (24, 64)), (8, (96, 96)), (7, (16, 16)), (8, (400, 420))]
)
@pytest.mark.parametrize("steepness", [0.0, 1.0], ids=["flat", "decaying"])
def test_a_merge_is_within_1e_4_of_float64_where_it_is_determined(tasks, shape, steepness):
    spectrum = torch.arange(1, min(shape) + 1) ** -steepness
    matrices = [with_spectrum(spectrum, shape, task) if steepness else draw(*shape, seed=task) for task in range(tasks)]
    stack = torch.stack(matrices)
    assert distance(merge(stack), svd_merge(stack)) < 1e-4


def test_tasks_that_move_in_orthogonal_directions_are_added_up():
    left, right = torch.linalg.qr(draw(24, 12))[0], torch.linalg.qr(draw(18, 12, seed=1))[0]
    values = torch.linspace(5, 1, 12)
    parts = [slice(3 * task, 3 * task + 3) for task in range(4)]
    stack = torch.stack([(left[:, part] * values[part]) @ right[:, part].T for part in parts])
    assert distance(merge(stack), stack.sum(0).double()) < 1e-5


@pytest.mark.parametrize("shape", [(40, 40), (31, 17), (400, 401)])
def test_identical_tasks_merge_into_their_leading_part(shape):
    """All directions but those of one task are noise and are dropped: what is left is one truncated task."""
    matrix = draw(*shape)
    merged = merge(matrix.expand(4, *shape).contiguous())
    assert distance(merged, svd_product(matrix, min(shape) // 4)) < 1e-4
    assert merge(matrix.expand(4, *shape).contiguous()).equal(merged)


def test_tasks_of_low_rank_merge_without_noise():
    """LoRA deltas of rank 2, of which a merge would keep 10 triplets each: 8 of those are rounding noise."""
    stack = torch.stack([draw(40, 2, seed=task) @ draw(2, 40, seed=task + 10) for task in range(4)])
    found = [leading_triplets(matrix, 2) for matrix in stack]
    assert distance(merge(stack), orthogonalised(concatenated(found)).product.double()) < 1e-5
    assert merge(stack).isfinite().all()


@pytest.mark.parametrize("apart", [1e-1, 1e-2, 1e-3, 1e-5, 1e-7])
def test_nearly_parallel_tasks_are_as_close_as_the_condition_allows(apart):
    """The factors are known to float32, so what is `apart` in them is known to epsilon / apart."""
    stack = torch.stack([draw(40, 40), draw(40, 40) + apart * draw(40, 40, seed=1)])
    rank = 20
    sides = [torch.linalg.svd(matrix.double(), full_matrices=False) for matrix in stack]
    joined = (torch.cat([u[:, :rank] for u, _, _ in sides], 1), torch.cat([v[:rank].T for _, _, v in sides], 1))
    condition = max(float(values[0] / values[-1]) for values in map(torch.linalg.svdvals, joined))
    merged = merge(stack)
    assert merged.isfinite().all() and merge(stack).equal(merged)
    assert merged.norm() <= 1.01 * sum(values[:rank].square().sum() for _, values, _ in sides) ** 0.5
    if condition < 0.1 / EPSILON:
        assert distance(merged, svd_merge(stack)) < 10 * EPSILON * condition


def test_a_task_that_did_not_move_changes_nothing_but_the_rank():
    stack = torch.stack([draw(12, 9), torch.zeros(12, 9), draw(12, 9, seed=1)])
    moved = concatenated([leading_triplets(stack[0], 3), leading_triplets(stack[2], 3)])
    torch.testing.assert_close(merge(stack), orthogonalised(moved).product)


def test_more_tasks_than_directions_leave_nothing():
    assert not merge(draw(7, 5, 6)).any()


def test_a_gram_matrix_by_blocks_is_the_whole_one(monkeypatch):
    rows = draw(50, 60)
    monkeypatch.setattr(linear_algebra, "BLOCK", 8)
    torch.testing.assert_close(linear_algebra._gram(rows).tril(), (rows @ rows.T).tril())


def test_units_are_told_from_noise_more_finely_than_weights():
    assert weights_floor(torch.empty(64, 64)) > UNITS_FLOOR


@pytest.mark.parametrize("size", [1e-30, 1e-24, 1e-12, 1e12, 1e24])
def test_very_large_and_small_entries_are_decomposed_as_others_are(size):
    matrix = draw(30, 20)
    for scaled, whole in ((leading_triplets(matrix * size, 5).product / size, leading_triplets(matrix, 5).product),
                          (polar_factor(matrix * size, 1e-5), polar_factor(matrix, 1e-5))):  # fmt: skip
        assert distance(scaled, whole.double()) < 1e-5
