"""What fine-tuning changes of a T5, and what stays: all of its weights, or the vectors of (IA)^3 alone."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from src.checkpoints.naming import Spelling, spelled_like
from src.errors import UserError
from src.models.layers import depth_by_name
from src.models.t5.ia3 import add_ia3, is_ia3, spelled_as_ia3
from src.models.t5.loading import bare_names, linear_names
from src.models.t5.network import Network
from src.state_dict import StateDict, combined_digest, differences, entry_digest


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of a T5 that are fine-tuned and merged.

    network: the model that has them.
    pretrained: their values where fine-tuning starts.
    frozen: the network's other weights.
    canonical: returns a file's entries under the names of `pretrained`.
    """

    network: Network
    pretrained: StateDict
    frozen: StateDict
    canonical: Callable[[StateDict], Spelling]
    device: torch.device

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each entry of `pretrained`."""
        return {key: entry_digest(key, leaf) for key, leaf in self.pretrained.items()}

    @cached_property
    def frozen_digest(self) -> str:
        """The digest of what stays; of nothing where all is fine-tuned."""
        return combined_digest(entry_digest(key, leaf) for key, leaf in self.frozen.items())

    @cached_property
    def depth(self) -> Callable[[str], float | None]:
        """Returns the depth of a parameter, the blocks of encoder and decoder counted apart."""
        return depth_by_name(self.pretrained)

    @cached_property
    def linear(self) -> list[str]:
        """The names of the weights W of layers y = W x."""
        return linear_names(self.network.module, self.pretrained)

    def check_fits(self, weights: StateDict, name: str) -> None:
        """Raise UserError unless weights have the names and shapes of `pretrained`."""
        misfits = differences("the weights", weights, name, self.pretrained)
        if misfits:
            raise UserError(f"these weights do not fit {name}: {misfits[0]} ({len(misfits)} differences in all)")

    def placed(self, weights: StateDict) -> dict[str, Tensor]:
        """Return weights on the device, in float32."""
        return {key: weights[key].to(self.device, torch.float32) for key in weights}

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights of the network, those that stay with the others, which are on the device."""
        return {**self._placed_frozen, **weights}

    @cached_property
    def _placed_frozen(self) -> dict[str, Tensor]:
        return self.placed(self.frozen)


def dense_parameters(network: Network, pretrained: StateDict, device: torch.device) -> Parameters:
    """Return all weights as parameters."""
    return Parameters(network, pretrained, {}, partial(_canonical, pretrained=pretrained), device)


def ia3_parameters(dense: Parameters) -> Parameters:
    """Return the vectors of (IA)^3, which are ones where fine-tuning starts, as parameters of a model like `dense`."""
    module = copy.deepcopy(dense.network.module)
    vectors = add_ia3(module)
    return Parameters(Network(module), vectors, dense.pretrained, partial(spelled_as_ia3, vectors=vectors), dense.device)


def _canonical(weights: StateDict, pretrained: StateDict) -> Spelling:
    """Return `Parameters.canonical` of all weights. Raise UserError for (IA)^3's vectors."""
    if is_ia3(weights):
        raise UserError("these are the vectors of (IA)^3; give finetuning_mode=ia3")
    return spelled_like(bare_names("the fine-tuned model", weights), pretrained)
