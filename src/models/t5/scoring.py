"""How probable a T5 finds answers, and the answers that it gives: among choices, or token by token."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from src.models.t5.network import Network, Weights
from src.models.t5.tokens import PAD

MOST_NEW = 64  # tokens of an answer

Chooser = Callable[[Tensor], Tensor]  # returns a token (n,) for logits (n, vocabulary)


def token_log_probs(logits: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each token's log-probability, 0 for padding: (n, tokens).

    logits: (n, tokens, vocabulary).
    targets: (n, tokens).
    dtype: of the log-softmax. Where the right token has nearly all of the probability, float64 keeps what float32 rounds away.
    """
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(logits.to(dtype).flatten(0, 1), targets.flatten(), reduction="none")
    return torch.where(targets == PAD, 0, -losses.view(targets.shape))


def choice_log_probs(
    network: Network, weights: Weights, inputs: Tensor, choices: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return each choice's log-probability, the sum of its tokens', `</s>` included: (n, choices); -inf for padding.

    inputs: (n, tokens).
    choices: (n, choices, tokens), with all-padding ones where an example has fewer.
    """
    count = choices.shape[1]
    flat = choices.flatten(0, 1)
    encoded = network.encode(weights, inputs).repeated(count)
    sums = token_log_probs(network.logits(weights, encoded, flat), flat, dtype).sum(1).view(-1, count)
    return torch.where(choices[..., 0] == PAD, -torch.inf, sums)


def per_token(log_probs: Tensor, choices: Tensor) -> Tensor:
    """Return log-probabilities of choices, (n, choices), divided by the choices' numbers of tokens."""
    return log_probs / (choices != PAD).sum(-1).clamp(min=1)


def mean_log_prob(
    network: Network, weights: Weights, inputs: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the mean log-probability of each target's tokens, `</s>` included: (n,)."""
    encoded = network.encode(weights, inputs)
    sums = token_log_probs(network.logits(weights, encoded, targets), targets, dtype).sum(1)
    return sums / (targets != PAD).sum(1)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of all tokens of targets (n, tokens), padding left out.

    logits: (n, tokens, vocabulary).
    """
    return -token_log_probs(logits, targets).sum() / (targets != PAD).sum()


def generate(network: Network, weights: Weights, inputs: Tensor, choose: Chooser, most: int = MOST_NEW) -> Tensor:
    """Return answers of at most `most` tokens to inputs (n, tokens), padded after `</s>`: (n, tokens).

    choose: picks each token by its logits.
    """
    encoded, cache = network.encode(weights, inputs), network.new_cache()
    latest = torch.full_like(inputs[:, 0], PAD)
    is_done, answers = torch.zeros_like(latest, dtype=torch.bool), []
    while len(answers) < most and not is_done.all():
        chosen = choose(network.next_logits(weights, encoded, latest, cache).float())
        latest = torch.where(is_done, PAD, chosen)
        answers.append(latest)
        is_done = is_done | (latest == network.end)
    return torch.stack(answers, 1)


def most_probable(logits: Tensor) -> Tensor:
    """Return the most probable token of each row, the first of several: greedy decoding."""
    return logits.argmax(-1)


def sampler(generator: Generator, top: int | None) -> Chooser:
    """Return a chooser that draws tokens by their probabilities.

    top: the number of most probable tokens to draw from; None for all of them.
    """

    def choose(logits: Tensor) -> Tensor:
        if top is not None and top < logits.shape[-1]:
            smallest = logits.topk(top).values[..., -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[..., 0]

    return choose
