"""How probable a T5 finds answers, and the answers that it gives: among choices, or token by token."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from src.models.sampling import draw
from src.models.t5.network import Network, Weights
from src.models.t5.tokens import PAD

MOST_NEW = 64  # tokens of an answer

Chooser = Callable[[Tensor], Tensor]  # returns a token (n,) for logits (n, vocabulary)


def token_log_probs(logits: Tensor, answers: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each token's log-probability, 0 for padding: (..., tokens).

    logits: (..., tokens, vocabulary).
    answers: (..., tokens).
    dtype: of the log-softmax. Where the right token has nearly all of the probability, float64 keeps what float32 rounds away.
    """
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(logits.to(dtype).flatten(0, -2), answers.flatten(), reduction="none")
    return torch.where(answers == PAD, 0, -losses.view(answers.shape))


def answer_log_probs(
    network: Network, weights: Weights, inputs: Tensor, answers: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return each answer's log-probability, the sum of its tokens', `</s>` included: (n, answers); -inf for padding.

    inputs: (n, tokens).
    answers: (n, answers, tokens), with all-padding ones where an example has fewer.
    """
    logits = network.logits(weights, network.encode(weights, inputs), answers)
    sums = token_log_probs(logits, answers, dtype).sum(-1)
    return torch.where((answers != PAD).any(-1), sums, -torch.inf)


def per_token(log_probs: Tensor, answers: Tensor) -> Tensor:
    """Return log-probabilities of answers, (n, answers), divided by the answers' numbers of tokens."""
    return log_probs / (answers != PAD).sum(-1).clamp(min=1)


def token_loss(network: Network, weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of all tokens of targets (n, tokens), padding left out."""
    answers = targets[:, None]
    logits = network.logits(weights, network.encode(weights, inputs), answers)
    return -token_log_probs(logits, answers).sum() / (answers != PAD).sum()


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


def sampler(generators: Sequence[Generator], top: int | None) -> Chooser:
    """Return a chooser that draws tokens by their probabilities.

    generators: of the rows.
    top: the number of most probable tokens to draw from; None for all of them.
    """

    def choose(logits: Tensor) -> Tensor:
        if top is not None and top < logits.shape[-1]:
            smallest = logits.topk(top).values[..., -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        return draw(logits.softmax(-1), generators)

    return choose
