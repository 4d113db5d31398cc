"""T5's passes as functions of named weights and token ids; they work under torch.func and see each mask as what is added.

Masks have four dimensions throughout: of fewer, transformers looks at the values to build its own, which vmap refuses.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from src.models.t5.tokens import PAD

OF_INPUTS = re.compile(r"encoder\..+|decoder\..+\.EncDecAttention\.[kv]\..+")  # parameters of layers that read inputs
MASKED = torch.finfo(torch.float32).min

Weights = Mapping[str, Tensor]


class Encoded(NamedTuple):
    """Inputs as the decoder reads them.

    states: the encoder's, (n, tokens, width).
    mask: what is added to the attention to each token, (n, 1, 1, tokens).
    """

    states: Tensor
    mask: Tensor

    def repeated(self, count: int) -> "Encoded":
        """Return each example `count` times in a row."""
        return Encoded(*(leaf.unsqueeze(1).expand(-1, count, *leaf.shape[1:]).flatten(0, 1) for leaf in self))


class Network:
    """A T5 without weights of its own.

    module: transformers' model without storage; hooks on its layers see what passes through them.
    end: the id of `</s>`.
    """

    def __init__(self, module: nn.Module):
        self.module, self.end = module, module.config.eos_token_id

    def encode(self, weights: Weights, inputs: Tensor) -> Encoded:
        """Return inputs (n, tokens) encoded."""
        mask = torch.where(inputs == PAD, MASKED, 0.0)[:, None, None]
        own = {key.removeprefix("encoder."): leaf for key, leaf in weights.items() if key.startswith("encoder.")}
        own["embed_tokens.weight"] = weights["shared.weight"]
        output = functional_call(self.module.encoder, own, kwargs={"input_ids": inputs, "attention_mask": mask})
        return Encoded(output.last_hidden_state, mask)

    def logits(self, weights: Weights, encoded: Encoded, targets: Tensor) -> Tensor:
        """Return the logits of each token of targets (n, tokens), of what was before it: (n, tokens, vocabulary)."""
        before = torch.cat([torch.full_like(targets[:, :1], PAD), targets[:, :-1]], 1)
        return self._decode(weights, encoded, before, 0).logits

    def next_logits(self, weights: Weights, encoded: Encoded, latest: Tensor, cache: Any) -> Tensor:
        """Return the logits of the next tokens, (n, vocabulary).

        latest: the tokens before them, (n,).
        cache: `new_cache()` of these examples, which this updates.
        """
        output = self._decode(weights, encoded, latest[:, None], cache.get_seq_length(), cache=cache, use_cache=True)
        return output.logits[:, -1]

    def new_cache(self) -> Any:
        """Return a cache of keys and values for `next_logits`."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def _decode(self, weights: Weights, encoded: Encoded, inputs: Tensor, past: int, **options: Any) -> Any:
        """past: the number of tokens before `inputs` that the cache knows."""
        length = inputs.shape[1]
        causal = torch.full((length, past + length), MASKED, device=encoded.states.device).triu(past + 1)
        arguments = {"attention_mask": encoded.mask, "decoder_input_ids": inputs, "decoder_attention_mask": causal[None, None]}
        return functional_call(
            self.module, dict(weights), kwargs={"encoder_outputs": (encoded.states,), "use_cache": False, **arguments, **options}
        )


def is_of_inputs(key: str) -> bool:
    """Whether a parameter is of a layer through which the tokens of inputs pass, not those of targets."""
    return bool(OF_INPUTS.fullmatch(key))
