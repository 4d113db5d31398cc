"""The tangent model (Ortiz-Jimenez, Favero, Frossard, NeurIPS 2023): a network's first-order Taylor expansion in its weights.

    linearized(x; weights) = f(x; reference) + df(x; reference)/dweights . (weights - reference)

It is linear in the weights: the change that a sum of task vectors makes is the sum of the changes that each makes.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

# torch's formulas for forward mode are compiled, when first used, by what torch itself calls deprecated
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

Weights = Mapping[str, Tensor]


def tangent(function: Callable[[Weights], Tensor], reference: Weights, weights: Weights) -> Tensor:
    """Return `function(reference)` plus its derivative there along `weights - reference`.

    Names and shapes of the two are equal; entries that are the very same tensor, or no floating-point numbers, do not
    move. The result may be differentiated once with respect to `weights`, and not with respect to anything else.

    The gradient of the expansion is the function's own gradient at the reference. So it is taken of the value, whose
    backward pass is the cheap one: the derivative's would be that of all the formulas of forward-mode differentiation.
    """
    moving = {key for key, leaf in weights.items() if leaf is not reference[key] and leaf.is_floating_point()}
    if not moving:
        return function(reference)
    constants = {key: leaf for key, leaf in reference.items() if key not in moving}
    point = {key: _with_gradient_of(weights[key], reference[key]) for key in reference if key in moving}
    direction = {key: weights[key].detach() - reference[key] for key in point}
    with _math_attention(), forward_ad.dual_level():  # what torch.func.jvp does, a tenth faster
        duals = {key: forward_ad.make_dual(point[key], direction[key]) for key in point}
        value, change = forward_ad.unpack_dual(function({**constants, **duals}))
        return value if change is None else value + change.detach()


@contextlib.contextmanager
def _math_attention() -> Iterator[None]:
    """Compute attention by formulas that forward-mode differentiation knows; the fused kernels have none."""
    fastpath, narrow = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # else it computes in float32 what is asked for in bf16
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(narrow)


def _with_gradient_of(weight: Tensor, value: Tensor) -> Tensor:
    """Return `value`, whose gradient goes to `weight`."""
    return value + (weight - weight.detach()) if weight.requires_grad and torch.is_grad_enabled() else value


class LinearizedModel(nn.Module):
    """The tangent model of a module around the weights it has now.

    Its state dict has the module's names and starts at the reference, which is no part of it; task vectors apply to it
    as to the module (`LinearizedTaskVector.apply_to_linear`).
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(module)
        self.reference = {key: leaf.detach().clone() for key, leaf in module.named_parameters()}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the module's output for these inputs, to first order in its parameters."""
        weights = dict(self.model.named_parameters())
        reference = {key: leaf.to(weights[key].device) for key, leaf in self.reference.items()}
        return tangent(lambda entries: torch.func.functional_call(self.model, dict(entries), inputs), reference, weights)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return the module's own, without the prefix that this wrapper would add."""
        return self.model.state_dict(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights by the module's own names."""
        return self.model.load_state_dict(*arguments, **options)
