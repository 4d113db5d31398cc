"""The entropy of predictions on unlabelled examples: its values, what is drawn, and what processes share."""

import math

import pytest
import torch

from src.models.entropy import entropies
from src.runtime.distributed import ProcessGroup
from src.statistics.entropy import SampledEntropy
from tests.helpers.likely_families import IMAGES, image_family, image_task, text_family
from tests.helpers.text_models import GoldenTask

TASKS = {name: GoldenTask(name) for name in ("alpha", "beta", "gamma")}


def test_entropies_of_known_distributions():
    scores = torch.tensor([[0.0, 0.0, -torch.inf], [5.0, 5.0, 5.0], [0.0, math.log(3), -torch.inf]], requires_grad=True)
    found = entropies(scores)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(found, torch.tensor([math.log(2), math.log(3), quarter]))
    found.sum().backward()
    assert scores.grad.isfinite().all() and scores.grad[2, 2] == 0


def test_an_image_is_as_unsure_as_its_class_probabilities():
    family, task = image_family(), image_task()
    entries = family.on_device(family.pretrained)
    batch = next(family.batches(task, "test", IMAGES, range(IMAGES)))
    probabilities = family.log_probs(entries, batch).exp()
    torch.testing.assert_close(family.entropy(entries, batch), -(probabilities * probabilities.log()).sum(1))


def test_a_generated_answer_is_as_unsure_as_its_tokens():
    """Token by token, by the logits that generation itself sees."""
    family = text_family()
    entries, network = family.on_device(family.pretrained), family._parameters.network
    batch = next(family.batches(TASKS["gamma"], "test", 3, range(3)))
    encoded, cache = network.encode(entries, batch.inputs["input"]), network.new_cache()
    latest, done, sums, counts = (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3),
        torch.zeros(3),
    )
    while not done.all():
        logits = network.next_logits(entries, encoded, latest, cache).detach()
        sums, counts = sums + torch.where(done, 0, entropies(logits)), counts + ~done
        latest = torch.where(done, 0, logits.argmax(1))
        done = done | (latest == network.end) | (counts >= 64)
    torch.testing.assert_close(family.entropy(entries, batch).detach(), sums / counts, rtol=1e-4, atol=1e-5)


def test_a_step_draws_different_examples_and_the_same_each_time():
    entropy = SampledEntropy(text_family(), TASKS, "test", 4, 0)
    batches = [entropy._draw(TASKS["alpha"], seed) for seed in (1, 1, 2)]
    rows = [[tuple(row[row != 0].tolist()) for row in batch.inputs["input"]] for batch in batches]
    assert rows[0] == rows[1] != rows[2] and all(len(each) == 4 for each in rows)
    everything = SampledEntropy(text_family(), TASKS, "test", 10**6, 0)._draw(TASKS["alpha"], 0)
    assert len(everything) == len(TASKS["alpha"].examples("test"))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_processes_share_the_tasks(size):
    family = text_family()
    alone = [value.item() for value in SampledEntropy(family, TASKS, "test", 4, 0).by_task(3, family.pretrained)]
    groups = [SampledEntropy(family, TASKS, "test", 4, 0, ProcessGroup(rank, size, rank)) for rank in range(size)]
    shared = [value.item() for each in groups for value in each.by_task(3, family.pretrained)]
    assert sorted(shared) == sorted(alone) and len(alone) == 3
