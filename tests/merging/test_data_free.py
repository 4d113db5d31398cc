"""Methods that merge matrices without data: the covariance family, DC-Merge, CART, STAR, Subspace Boosting."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Generator, Tensor

from command_line.build import build_method
from command_line.config import compose_config
from merging import merge
from src.errors import UserError
from src.merging.dc_merge import agreed
from src.merging.engine.covariance import StackCovariance
from src.merging.engine.trimming import largest_entries
from src.merging.method import Method
from tests.conftest import merge_inputs

CLOSED = ("actmat", "tact", "wudi")
FLOWS = ("iwudi", "swudi", "aswudi")
ALL = (*CLOSED, *FLOWS, "dc_merge", "cart", "star", "subspace_boosting")
KEY = "blocks.0.weight"
SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (9, 9)}


@cache
def build(name: str, *options: str) -> Method:
    return build_method(compose_config([f"method={name}", *(f"method.{option}" for option in options)]))


def stack_of(tasks: int, shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(tasks, *shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def merged(method: Method, stack: Tensor, coefficient: float = 1.0) -> Tensor:
    """Return the merged matrix of task vectors that are one matrix of a block."""
    finetuned = {f"task{number}": {KEY: matrix} for number, matrix in enumerate(stack)}
    inputs = replace(merge_inputs(({KEY: torch.zeros_like(stack[0])}, finetuned)), statistics={})
    return method(inputs)(coefficient)["task0"][KEY]


def near(got: Tensor, expected: Tensor, within: float = 1e-9) -> bool:
    return bool((got - expected).norm() <= within * expected.norm().clamp_min(1e-30))


def filtered(stack: Tensor, weights: Tensor, start: Tensor, share) -> Tensor:
    """The papers' formula, X_0 - X_0 Q f Q^T + D Q (f / lambda) Q^T, without any thrift."""
    grams = [weight * matrix.T @ matrix for weight, matrix in zip(weights, stack)]
    values, vectors = torch.linalg.eigh(sum(grams))
    target, shares = sum(matrix @ gram for matrix, gram in zip(stack, grams)), share(values)
    ratio = torch.where(shares > 0, shares / values, 0.0)
    return start - start @ vectors * shares @ vectors.T + target @ vectors * ratio @ vectors.T


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("start", ["sum", "average", "zero"])
def test_a_flow_that_stops_early_is_a_filter_of_eigenvalues(shape, start):
    stack = stack_of(5, shape)
    weights = 1 / stack.square().sum((1, 2))
    origin = {"sum": stack.sum(0), "average": stack.mean(0), "zero": torch.zeros(shape).double()}[start]
    time, count = 3.0, int(0.65 * shape[1] + 0.999)
    leading = torch.arange(shape[1]).flip(0) < count
    flow = filtered(stack, weights, origin, lambda values: 1 - torch.exp(-time * values))
    assert near(merged(build("iwudi", "time=3", f"start={start}"), stack), flow)
    cut = filtered(stack, weights, origin, lambda values: leading * (1 - torch.exp(-time * values)))
    assert near(merged(build("swudi", "time=3", f"start={start}"), stack), cut)

    def most(values: Tensor) -> Tensor:
        rank = int(torch.ceil(values.clamp_min(0).sqrt().sum() ** 2 / values.sum()))
        return (torch.arange(shape[1]).flip(0) < rank).double()

    assert near(merged(build("aswudi", f"start={start}"), stack), filtered(stack, weights, origin, most))


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_solves_its_equations_whatever_the_start(name):
    stack = stack_of(5, (6, 20))
    estimates = stack
    if name == "tact":
        thresholds = stack.abs().flatten(1).median(1).values
        estimates = torch.where(stack.abs() > thresholds[:, None, None], stack, 0.0)
    weights = 1 / stack.square().sum((1, 2)) if name == "wudi" else torch.ones(5, dtype=torch.float64)
    for start in ("sum", "zero"):
        result = merged(build(name, f"start={start}"), stack)
        descent = sum(weight * (result - own) @ part.T @ part for weight, own, part in zip(weights, stack, estimates))
        assert descent.norm() < 1e-9 * result.norm()


def test_few_rows_and_low_ranks_have_the_pseudo_inverse():
    """Of adapters' matrices in float32, the rest of whose singular values is rounding."""
    factors = [(stack_of(1, (40, 2), seed)[0], stack_of(1, (2, 30), 9 + seed)[0]) for seed in range(4)]
    exact = torch.stack([left @ right for left, right in factors])
    for matrices in (exact, exact.transpose(1, 2).contiguous()):
        grams = [matrix.T @ matrix / matrix.square().sum() for matrix in matrices]
        expected = sum(matrix @ gram for matrix, gram in zip(matrices, grams)) @ torch.linalg.pinv(sum(grams), rtol=1e-9)
        for name in ("wudi", "aswudi"):
            result = merged(build(name), matrices.float())
            assert torch.linalg.matrix_rank(result, rtol=1e-4) <= 8 and (name != "wudi" or near(result, expected, 1e-4))
            assert near(result, merged(build(name), matrices), 1e-4)


def test_the_rounding_of_low_ranks_counts_as_no_direction():
    """Here as many directions take part as there are: one more would be rounding over rounding."""
    basis = torch.linalg.qr(stack_of(1, (30, 8))[0]).Q
    stack = torch.stack([torch.linalg.qr(stack_of(1, (40, 4), 1)[0]).Q @ part.T for part in basis.split(4, 1)])
    assert near(merged(build("aswudi"), stack.float()).double(), stack.sum(0), 1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["actmat", "wudi", "iwudi", "swudi", "aswudi", "cart"])
def test_one_task_is_that_tasks_own(name, shape):
    stack = stack_of(1, shape)
    assert near(merged(build(name), stack), stack[0], 1e-6)


@pytest.mark.parametrize(
    "name,options",
    [("actmat", ()), ("wudi", ()), *((name, ("start=average",)) for name in FLOWS), ("cart", ()), ("star", ("eta=100",))],
)
def test_identical_tasks_are_each_ones_own(name, options):
    stack = stack_of(1, (6, 9)).expand(3, -1, -1)
    assert near(merged(build(name, *options), stack), stack[0], 1e-6)


@pytest.mark.parametrize("name", ["actmat", "wudi", *FLOWS])
def test_tasks_that_share_no_direction_are_summed(name):
    stack = torch.zeros(3, 5, 12, dtype=torch.float64)
    for number, matrix in enumerate(stack_of(3, (5, 4))):
        stack[number, :, 4 * number : 4 * number + 4] = matrix
    assert near(merged(build(name), stack), stack.sum(0), 1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_order_does_not_matter_and_scale_passes_through(name, shape):
    stack = stack_of(4, shape)
    result = merged(build(name), stack)
    assert result.isfinite().all() and result.any()
    assert near(merged(build(name), stack[[2, 0, 3, 1]]), result, 1e-6)
    for factor in (1e-3, 2.0**80):
        assert near(merged(build(name), factor * stack), factor * result, 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_unchanged_tasks_and_opposite_ones_divide_nothing_by_zero(name):
    stack = stack_of(3, (6, 9))
    stack[1] = 0
    assert merged(build(name), stack).isfinite().all()
    opposite = torch.stack([stack[0], -stack[0]])
    assert merged(build(name), opposite).norm() < 1e-6 * stack[0].norm()
    packed = torch.zeros(2, 12, 4)  # of three matrices, of which no task changed the first
    packed[:, 4:] = stack_of(2, (8, 4)).float()
    models = {f"task{number}": {"blocks.0.attn.in_proj_weight": matrix} for number, matrix in enumerate(packed)}
    inputs = merge_inputs(({"blocks.0.attn.in_proj_weight": torch.zeros(12, 4)}, models))
    (result,) = build(name, "attention=split")(replace(inputs, statistics={}))(1.0)["task0"].values()
    assert result.isfinite().all() and not result[:4].any() and result[4:].any()


@pytest.mark.parametrize("name", [*CLOSED, *FLOWS])
def test_float32_is_enough_where_eigenvalues_are_near_one_another(name):
    stack = stack_of(6, (40, 50)).float()
    assert near(merged(build(name), stack).double(), merged(build(name), stack.double()), 2e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_covariance_is_whole_however_many_blocks_it_is_computed_in(shape, monkeypatch):
    stack, weights = stack_of(4, shape), torch.tensor([1.0, 0.5, 2.0, 0.0]).double()
    monkeypatch.setattr("src.merging.engine.linear_algebra.BLOCK", 4)
    grams = [weight * matrix.T @ matrix for weight, matrix in zip(weights, stack)]
    covariance, origin = StackCovariance.of(stack, weights), stack_of(1, shape, 5)[0]
    torch.testing.assert_close(covariance.total, sum(grams))
    expected = sum((matrix - origin) @ gram for matrix, gram in zip(stack, grams))
    torch.testing.assert_close(covariance.pulls(stack, origin), expected)


def test_a_covariance_is_solved_only_where_all_eigenvalues_are_above_a_floor():
    stack = torch.diag(torch.tensor([1.0, 0.5, 0.1])).double()[None]
    covariance, target = StackCovariance.of(stack, torch.ones(1).double()), stack_of(1, (2, 3))[0]
    torch.testing.assert_close(covariance.solved(target, 1e-3), target / torch.tensor([1.0, 0.25, 0.01]))
    assert covariance.solved(target, 0.02) is None
    least = 3 * torch.finfo(torch.float32).eps
    for name, floor in (("actmat", least), ("wudi", least**2)):
        stack[0, 2, 2] = floor**0.5 / 2  # of which the square is the eigenvalue
        assert merged(build(name, "start=zero"), stack)[2, 2] == 0, name


def test_the_largest_entries_are_of_each_matrix_and_equal_ones_stay():
    stack = torch.tensor([[[1.0, -3.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 0.5]]])
    assert largest_entries(stack, 2).tolist() == [[[0, -3], [2, 0]], [[1, 1], [1, 0]]]
    assert torch.equal(largest_entries(stack, 9), stack)


def test_entries_that_agree_with_the_sign_of_their_sum_are_averaged():
    stack = torch.tensor([[[3.0, 1.0, 0.0]], [[1.0, -1.0, 0.0]], [[-1.0, 0.0, -2.0]]])
    assert agreed(stack).tolist() == [[2.0, 0.0, -2.0]]


def test_carts_coefficient_starts_at_the_average():
    stack = stack_of(3, (6, 9))
    zero, one, two = (merged(build("cart", "rank_fraction=0.4"), stack, number) for number in (0.0, 1.0, 2.0))
    assert near(zero, stack.mean(0)) and near(two - one, one - zero)
    own = stack - stack.mean(0)
    left, values, right = torch.linalg.svd(own, full_matrices=False)
    assert near(one - zero, (left[..., :2] * values[:, None, :2] @ right[:, :2]).sum(0), 1e-6)


def test_star_keeps_the_sum_of_singular_values_in_the_fewest():
    matrix = torch.diag(torch.tensor([5.0, 3.0, 2.0])).double()
    assert near(merged(build("star", "eta=40"), matrix[None]), torch.diag(torch.tensor([10.0, 0, 0])).double(), 1e-6)
    assert near(merged(build("star", "eta=80"), matrix[None]), torch.diag(torch.tensor([6.25, 3.75, 0])).double(), 1e-6)


def test_boosting_raises_small_singular_values_and_leaves_zeros():
    matrix = torch.diag(torch.tensor([5.0, 3.0, 2.0, 0.0])).double()
    for beta, expected in ((0.4, [5.0, 5, 5, 0]), (0.6, [5.0, 3, 3, 0]), (1.0, [5.0, 3, 2, 0])):
        result = merged(build("subspace_boosting", f"beta={beta}"), matrix[None], 0.5)
        assert near(result, 0.5 * torch.diag(torch.tensor(expected)).double(), 1e-6)


def test_boosting_is_over_any_method_and_not_under_svc():
    stack = stack_of(3, (6, 9))
    over = build_method(compose_config(["method=subspace_boosting", "method@method.base=cart", "method.beta=1"]))
    for coefficient in (0.5, 2.0):
        assert near(merged(over, stack, coefficient), merged(build("cart"), stack, coefficient), 1e-6)
    with pytest.raises(UserError, match="SVC"):
        build("subspace_boosting", "apply_svc=True")
    with pytest.raises(UserError, match="makes one model"):
        build_method(compose_config(["method=subspace_boosting", "method@method.base=TSVC"]))


def notes(name: str, stack: Tensor, *options: str) -> list[str]:
    models = {f"task{number}": {KEY: matrix} for number, matrix in enumerate(stack)}
    return build(name, *options).notes(replace(merge_inputs(({KEY: torch.zeros_like(stack[0])}, models)), statistics={}))


def test_what_is_doubtful_about_a_merge_is_said():
    for name in CLOSED:
        (sentence,) = notes(name, stack_of(4, (5, 20)))
        assert KEY in sentence and "too large" in sentence
        assert not notes(name, stack_of(3, (5, 20))) and not notes(name, stack_of(1, (5, 5)))
        assert not notes(name, torch.zeros(4, 5, 20))  # which no task changed
    assert notes("wudi", stack_of(4, (5, 20)), "apply_lines=True")
    assert not notes("aswudi", stack_of(4, (5, 20)))
    for name in ("TSVM", "dc_merge"):
        (sentence,) = notes(name, stack_of(6, (5, 20)))
        assert KEY in sentence and "lost" in sentence
        assert not notes(name, stack_of(5, (5, 20))) and not merged(build(name), stack_of(6, (5, 20))).any()


def test_a_doubt_is_heard_by_who_merges():
    models = [{KEY: matrix} for matrix in stack_of(4, (5, 20))]
    with pytest.warns(UserWarning, match=f"{KEY}: .* too large"):
        merge("wudi", {KEY: torch.zeros(5, 20)}, models)


def test_actmat_averages_what_is_as_long_as_an_embedding():
    stack = stack_of(2, (3, 20_000)).float()
    (sentence,) = notes("actmat", stack)
    assert "20,000" in sentence and near(merged(build("actmat"), stack), stack.mean(0), 1e-6)


@pytest.mark.parametrize(
    "name,option",
    [("wudi", "start=ones"), ("iwudi", "time=0"), ("swudi", "rank_fraction=0"), ("tact", "k=0"), ("dc_merge", "keep=0"),
     ("cart", "rank_fraction=2"), ("star", "eta=0"), ("subspace_boosting", "beta=-1"), ("subspace_boosting", "attention=half"),
     ("subspace_boosting", "matrices=[]")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_by_name(name, option):
    with pytest.raises(UserError, match=f"method.{option.partition('=')[0]}"):
        build(name, option)
