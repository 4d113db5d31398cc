"""Scores of choices and answers token by token: by hand, as the released code has them, and as transformers has them."""

import math

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import log_softmax

from src.models.t5.loading import load_t5
from src.models.t5.network import Network
from src.models.t5.scoring import (
    answer_log_probs,
    generate,
    most_probable,
    per_token,
    sampler,
    token_log_probs,
)
from tests.helpers.text_models import (
    FILES,
    golden_choices,
    golden_inputs,
    golden_json,
    golden_t5,
    golden_targets,
    padded,
    random_ids,
    transformers_t5,
)

GOLDEN = golden_json("eval/eval.json")


@pytest.mark.parametrize("task", ["alpha", "beta"])
def test_choices_are_scored_as_by_the_released_code(task):
    model, expected = golden_t5(), GOLDEN["models"]["pretrained"]["tasks"][task]
    with torch.no_grad():
        scores = answer_log_probs(model.network, model.weights, golden_inputs(task), golden_choices(task))
    torch.testing.assert_close(scores, torch.tensor(expected["scores"]), atol=1e-3, rtol=0)
    assert scores.argmax(1).tolist() == expected["predicted"]
    normalised = per_token(scores, golden_choices(task))
    torch.testing.assert_close(normalised, torch.tensor(expected["scores_length_normalised"]), atol=1e-3, rtol=0)
    assert normalised.argmax(1).tolist() == expected["predicted_length_normalised"]


def mean_log_prob(model, weights, inputs, targets):
    """Return the mean log-probability of targets' tokens, (n,)."""
    answers = targets[:, None]
    return per_token(answer_log_probs(model.network, weights, inputs, answers), answers)[:, 0]


def test_a_padding_choice_never_wins():
    model, case = golden_t5(), GOLDEN["null_choice"]
    choices = padded([choice or [] for row in case["choices_ids"] for choice in row]).long().view(4, 4, -1)
    with torch.no_grad():
        scores = answer_log_probs(model.network, model.weights, padded(case["input_ids"]), choices)
    assert scores.argmax(1).tolist() == case["predicted"]
    expected = torch.tensor(case["scores"])
    is_there = expected > -1e30
    assert (scores[~is_there] == -torch.inf).all() and (per_token(scores, choices)[~is_there] == -torch.inf).all()
    torch.testing.assert_close(scores[is_there], expected[is_there], atol=1e-3, rtol=0)


def test_answers_are_generated_as_by_the_released_code():
    model, expected = golden_t5(), GOLDEN["models"]["pretrained"]["tasks"]["gamma"]["generated_ids"]
    with torch.no_grad():
        answers = generate(model.network, model.weights, golden_inputs("gamma"), most_probable, GOLDEN["max_new_tokens"])
    assert answers.tolist() == [row[1 : answers.shape[1] + 1] for row in expected]
    assert not any(any(row[answers.shape[1] + 1 :]) for row in expected)


@pytest.mark.parametrize("task", ["alpha", "beta", "gamma"])
def test_targets_are_scored_as_by_the_released_code(task):
    model, expected = golden_t5(), GOLDEN["models"]["pretrained"]["tasks"][task]["loss_mean_per_example"]
    with torch.no_grad():
        log_probs = mean_log_prob(model, model.weights, golden_inputs(task), golden_targets(task))
    torch.testing.assert_close(-log_probs, torch.tensor(expected), atol=1e-4, rtol=0)


def test_token_log_probs_by_hand():
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]]])
    found = token_log_probs(logits, torch.tensor([[2, 1, 0]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(1 / 2), math.log(1 / 3), 0.0]]))


def test_a_sure_token_keeps_its_log_probability_in_float64():
    logits = torch.tensor([[[0.0, 20.0, -3.0]]])
    exact = log_softmax(logits.double(), -1)[0, 0, 1].item()
    target = torch.tensor([[1]])
    assert token_log_probs(logits, target, torch.float64).item() == pytest.approx(exact, rel=1e-12)
    assert token_log_probs(logits, target).item() != pytest.approx(exact, rel=1e-3)


def test_a_choice_s_score_is_the_sum_of_its_tokens_with_the_end_and_without_padding():
    model = transformers_t5(False)
    network, weights = Network(model), dict(model.named_parameters())
    inputs, choice = random_ids(1, 5), [7, 9, 1]
    choices = torch.tensor([[[*choice, 0, 0], [4, 4, 4, 4, 1]]])
    with torch.no_grad():
        logits = model(input_ids=inputs, decoder_input_ids=torch.tensor([[0, *choice[:-1]]])).logits
        found = answer_log_probs(network, weights, inputs, choices)
    by_hand = sum(log_softmax(logits[0, place], -1)[token] for place, token in enumerate(choice))
    torch.testing.assert_close(found[0, 0], by_hand)
    torch.testing.assert_close(per_token(found, choices)[0, 0], by_hand / 3)


def test_each_answer_is_scored_as_if_it_were_the_only_one():
    model, inputs, choices = golden_t5(), golden_inputs("alpha"), golden_choices("alpha")
    with torch.no_grad():
        together = answer_log_probs(model.network, model.weights, inputs, choices)
        for number in range(choices.shape[1]):
            alone = answer_log_probs(model.network, model.weights, inputs, choices[:, number : number + 1])
            torch.testing.assert_close(together[:, number : number + 1], alone, atol=1e-4, rtol=0)


def test_the_first_of_equal_choices_wins():
    model = golden_t5()
    choices = torch.tensor([[[9, 1], [9, 1], [9, 1]]])
    with torch.no_grad():
        scores = answer_log_probs(model.network, model.weights, torch.tensor([[5, 1]]), choices)
    assert scores.unique().numel() == 1 and scores.argmax(1).item() == 0


@pytest.mark.parametrize("answer", ["choices", "generation"])
def test_an_input_is_encoded_once_however_many_choices_or_tokens_there_are(answer):
    model, calls = load_t5(FILES), []
    model.network.module.encoder.register_forward_hook(lambda *passed: calls.append(passed))
    with torch.no_grad():
        if answer == "choices":
            answer_log_probs(model.network, model.weights, golden_inputs("alpha"), golden_choices("alpha"))
        else:
            assert generate(model.network, model.weights, golden_inputs("gamma"), most_probable).shape[1] > 3
    assert len(calls) == 1 and calls[0][2].last_hidden_state.shape[0] == 18


def test_scores_and_answers_do_not_depend_on_what_else_is_in_a_batch():
    model = golden_t5()
    inputs, choices, questions = golden_inputs("alpha"), golden_choices("alpha"), golden_inputs("gamma")
    with torch.no_grad():
        whole = answer_log_probs(model.network, model.weights, inputs, choices)
        answers = generate(model.network, model.weights, questions, most_probable, 12)
        for row in range(0, len(inputs), 5):
            alone = inputs[row : row + 1, : (inputs[row] != 0).sum()]
            torch.testing.assert_close(
                answer_log_probs(model.network, model.weights, alone, choices[row : row + 1])[0], whole[row], atol=1e-4, rtol=0
            )
            answer = generate(
                model.network, model.weights, questions[row : row + 1, : (questions[row] != 0).sum()], most_probable, 12
            )
            assert answer[0].tolist() == answers[row, : answer.shape[1]].tolist() and not answers[row, answer.shape[1] :].any()


def test_the_cache_of_keys_and_values_changes_no_answer():
    """Token by token, each from a pass over all before it."""
    model, inputs = golden_t5(), golden_inputs("gamma")
    with torch.no_grad():
        encoded = model.network.encode(model.weights, inputs)
        answers = generate(model.network, model.weights, inputs, most_probable, 9)
        logits = model.network.logits(model.weights, encoded, answers[:, None])[:, 0]
    is_there = answers != 0
    assert (logits.argmax(-1) == answers)[is_there].all() and is_there.sum() > 60


def test_an_answer_has_at_most_so_many_tokens_and_nothing_after_its_end():
    model, inputs = golden_t5(), golden_inputs("gamma")
    tokens = iter([5, 1, 7, 8])

    def choose(logits):
        return torch.full_like(logits[:, 0], next(tokens)).long()

    assert generate(model.network, model.weights, inputs, choose).tolist() == [[5, 1]] * len(inputs)
    never_ends = generate(model.network, model.weights, inputs[:2], lambda logits: torch.tensor([5, 5]))
    assert never_ends.shape == (2, 64)


def test_samples_follow_the_probabilities_and_their_seed():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20_000, 4)
    for top, expected in ((None, [0.5, 0.3, 0.15, 0.05]), (2, [0.625, 0.375, 0.0, 0.0]), (50, [0.5, 0.3, 0.15, 0.05])):
        drawn, again = (sampler([torch.Generator().manual_seed(3)] * len(logits), top)(logits) for _ in range(2))
        assert torch.equal(drawn, again)
        shares = drawn.bincount(minlength=4) / len(drawn)
        torch.testing.assert_close(shares, torch.tensor(expected), atol=0.02, rtol=0)
        assert (shares == 0).tolist() == [share == 0 for share in expected]


def test_gradients_of_examples_by_vmap_are_those_of_each_alone():
    model = golden_t5()
    weights = dict(model.weights)
    inputs, targets = golden_inputs("gamma")[:4], golden_targets("gamma")[:4]

    def objective(weights, example, target):
        return mean_log_prob(model, weights, example[None], target[None])[0]

    together = vmap(grad(objective), in_dims=(None, 0, 0))(weights, inputs, targets)
    for row in range(4):
        alone = grad(objective)(weights, inputs[row][inputs[row] != 0], targets[row][targets[row] != 0])
        for key, expected in alone.items():
            torch.testing.assert_close(together[key][row], expected, atol=1e-6, rtol=1e-4)
        assert any(leaf.any() for leaf in alone.values())


def test_bfloat16_passes_give_float32_scores_close_to_float32_ones():
    model = golden_t5()
    inputs, choices = golden_inputs("beta"), golden_choices("beta")
    with torch.no_grad():
        expected = answer_log_probs(model.network, model.weights, inputs, choices)
        with torch.autocast("cpu", torch.bfloat16):
            found = answer_log_probs(model.network, model.weights, inputs, choices)
            answers = generate(model.network, model.weights, inputs, most_probable, 3)
    assert found.dtype == torch.float32 and len(answers) == len(inputs)
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0.05)
    assert not torch.equal(found, expected)
