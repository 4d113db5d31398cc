"""The tangent model: equal at the reference, right in its derivative, linear in its weights, trained by the right gradient."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.models.linearize import LinearizedModel, tangent
from src.state_dict import StateDict
from src.task_vectors import LinearizedTaskVector, NonLinearTaskVector


class Block(nn.Module):
    """A transformer block with all that forward-mode differentiation may stumble over."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x):
        y = self.norm(x)
        return self.mlp(x + self.attn(y, y, y, need_weights=False)[0]).mean(1)


@pytest.fixture(params=[torch.float32, torch.float64])
def block(request) -> Block:
    torch.manual_seed(0)
    return Block().to(request.param).eval()


def inputs(block: Block) -> torch.Tensor:
    return torch.randn(3, 5, 8, dtype=block.norm.weight.dtype, generator=torch.Generator().manual_seed(1))


def perturb(block: Block, scale: float, seed: int = 2) -> StateDict:
    """Return the block's weights plus noise."""
    generator = torch.Generator().manual_seed(seed)
    return {key: leaf.detach() + scale * torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator)
            for key, leaf in block.named_parameters()}  # fmt: skip


def reference(block: Block) -> StateDict:
    return {key: leaf.detach().clone() for key, leaf in block.named_parameters()}


def test_it_equals_the_model_at_the_reference(block):
    x, start = inputs(block), reference(block)
    at_reference = tangent(lambda weights: functional_call(block, weights, (x,)), start, perturb(block, 0.0))
    torch.testing.assert_close(at_reference, block(x))
    torch.testing.assert_close(tangent(lambda weights: functional_call(block, weights, (x,)), start, start), block(x))
    torch.testing.assert_close(LinearizedModel(block)(x), block(x))


def test_its_change_is_the_first_derivative():
    """Central differences in float64: the error falls with the square of the step, until rounding."""
    torch.manual_seed(0)
    block = Block().double().eval()
    x, start, end = inputs(block), reference(block), perturb(block, 0.1)
    change = tangent(lambda weights: functional_call(block, weights, (x,)), start, end) - block(x)

    def at(step: float) -> torch.Tensor:
        return functional_call(block, {key: leaf + step * (end[key] - leaf) for key, leaf in start.items()}, (x,))

    errors = [((at(step) - at(-step)) / (2 * step) - change).abs().max().item() for step in (1e-2, 1e-3, 1e-4)]
    assert errors[2] < 1e-8 and errors[1] < errors[0] / 50


def test_it_is_linear_in_its_weights(block):
    x, start = inputs(block), reference(block)
    first, second = perturb(block, 0.3), perturb(block, 0.3, seed=3)
    both = {key: first[key] + 2 * (second[key] - start[key]) for key in start}
    change = {name: tangent(lambda weights: functional_call(block, weights, (x,)), start, weights) - block(x)
              for name, weights in (("first", first), ("second", second), ("both", both))}  # fmt: skip
    assert (change["both"] - change["first"] - 2 * change["second"]).abs().max() < 1e-4 * change["both"].abs().max()
    assert change["both"].abs().max() > 0.1


def test_its_gradient_is_that_of_the_expansion():
    """Against the Jacobian at the reference, which the gradient of any linear function of the weights must show."""
    torch.manual_seed(0)
    block = Block().double().eval()
    x, start = inputs(block), reference(block)
    weights = {key: leaf.clone().requires_grad_() for key, leaf in perturb(block, 0.5).items()}
    outputs = tangent(lambda entries: functional_call(block, entries, (x,)), start, weights)
    (outputs**2).sum().backward()
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(lambda entries: functional_call(block, entries, (x,)))(start)
    for key, leaf in weights.items():
        expected = torch.tensordot(2 * outputs.detach(), jacobian[key], dims=2)
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-9)


def test_only_what_moves_needs_a_tangent_and_only_what_trains_a_gradient(block):
    x, start = inputs(block), reference(block)
    attention = {key: leaf.requires_grad_() for key, leaf in perturb(block, 0.3).items() if key.startswith("attn")}
    outputs = tangent(lambda weights: functional_call(block, weights, (x,)), start, {**start, **attention})
    outputs.sum().backward()
    assert all(leaf.grad is not None for leaf in attention.values())
    assert not any(leaf.requires_grad for leaf in start.values())
    with torch.no_grad():
        assert not tangent(lambda weights: functional_call(block, weights, (x,)), start, {**start, **attention}).requires_grad


def test_a_linearized_model_trains_and_keeps_the_names_of_its_parameters(block):
    model, x = LinearizedModel(block), inputs(block)
    assert list(model.state_dict()) == list(block.state_dict())
    before, first = {key: leaf.clone() for key, leaf in block.state_dict().items()}, model(x).detach()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x).pow(2).sum().backward()
    optimizer.step()
    assert model(x).pow(2).sum() < first.pow(2).sum()
    assert all(torch.equal(leaf, before[key]) for key, leaf in block.state_dict().items())
    other = LinearizedModel(block)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_vectors_of_both_kinds_add_up_by_name_and_apply_to_both_kinds_of_model(block):
    x, start = inputs(block), dict(block.state_dict())
    linear = LinearizedTaskVector(start, perturb(block, 0.2))
    other = NonLinearTaskVector(dict(reversed(start.items())), perturb(block, 0.2, seed=3))  # another order of names
    assert isinstance(linear + other, LinearizedTaskVector) and isinstance(other + linear, NonLinearTaskVector)
    both = linear + other
    for key in start:
        torch.testing.assert_close(both[key], linear[key] + other[key])
    edited = both.apply_to_linear(LinearizedModel(block), scaling_coef=0.5)
    plain = both.apply_to_nonlinear(block, scaling_coef=0.5)
    assert isinstance(edited, LinearizedModel) and isinstance(plain, Block)
    assert all(torch.equal(edited.state_dict()[key], plain.state_dict()[key]) for key in start)
    assert not torch.allclose(edited(x), plain(x)) and torch.allclose(LinearizedModel(block)(x), block(x), atol=1e-5)
    halves = linear.apply_to_linear(LinearizedModel(block), 0.5)(x) + other.apply_to_linear(LinearizedModel(block), 0.5)(x)
    torch.testing.assert_close(edited(x) - block(x), halves - 2 * block(x), rtol=1e-3, atol=1e-4)
