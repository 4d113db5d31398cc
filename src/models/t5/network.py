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

    def logits(self, weights: Weights, encoded: Encoded, answers: Tensor) -> Tensor:
        """Return the logits of each token of answers, of what is before it: (n, answers, tokens, vocabulary).

        The answers to an input pass as one sequence, in which each sees itself alone: T5 knows relative positions only. So
        the keys and values of the input are computed once, and not for every answer.

        answers: (n, answers, tokens).
        """
        count, length = answers.shape[1:]
        before = torch.cat([torch.full_like(answers[..., :1], PAD), answers[..., :-1]], -1)
        is_seen = torch.block_diag(*[torch.ones(length, length, device=answers.device).tril()] * count) > 0
        output = self._decode(weights, encoded, before.flatten(1), torch.where(is_seen, 0.0, MASKED))
        return output.logits.unflatten(1, (count, length))

    def next_logits(self, weights: Weights, encoded: Encoded, latest: Tensor, cache: Any) -> Tensor:
        """Return the logits of the next tokens, (n, vocabulary).

        latest: the tokens before them, (n,).
        cache: `new_cache()` of these examples, which this updates.
        """
        mask = torch.zeros(1, cache.get_seq_length() + 1, device=latest.device)
        return self._decode(weights, encoded, latest[:, None], mask, cache=cache, use_cache=True).logits[:, -1]

    def new_cache(self) -> Any:
        """Return a cache of keys and values for `next_logits`."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def _decode(self, weights: Weights, encoded: Encoded, inputs: Tensor, mask: Tensor, **options: Any) -> Any:
        """Return transformers' output.

        inputs: (n, tokens).
        mask: what is added to the attention of tokens to one another, (tokens, tokens and those of a cache).
        """
        arguments = {"attention_mask": encoded.mask, "decoder_input_ids": inputs, "decoder_attention_mask": mask[None, None]}
        return functional_call(
            self.module, dict(weights), kwargs={"encoder_outputs": (encoded.states,), "use_cache": False, **arguments, **options}
        )


def is_of_inputs(key: str) -> bool:
    """Whether a parameter is of a layer through which the tokens of inputs pass, not those of targets."""
    return bool(OF_INPUTS.fullmatch(key))
