from dataclasses import replace

import pytest
import torch
from torch import nn

from src.checkpoints import open_checkpoint
from src.errors import UserError
from src.models.family import Batch
from src.train import Recipe, finetune, mismatch

RECIPE = Recipe(lr=0.1, weight_decay=0.0, warmup_steps=4, epochs=5, batch_size=8, max_grad_norm=1.0, seed=0)


class Line:
    """A linear model of points left and right of a line: as small as a family gets."""

    name = identity = "line"
    precision, device = "fp32", torch.device("cpu")

    def __init__(self):
        torch.manual_seed(0)
        self._model = nn.Linear(2, 2)
        self.pretrained = {key: leaf.detach().clone() for key, leaf in self._model.state_dict().items()}
        self.points = torch.randn(64, 2)
        self.prepared = []

    def load(self, weights):
        self._model.load_state_dict(dict(weights))

    def weights(self):
        return self._model.state_dict()

    def trainable(self):
        return list(self._model.parameters())

    def prepare(self, task):
        self.prepared.append(task.name)
        return "head"

    def training_batches(self, task, size, order):
        for rows in torch.randperm(64, generator=order).split(size):
            yield Batch(task.name, self.points[rows], (self.points[rows, 0] > 0).long())

    def count(self, task, split):
        return 64

    def spans(self, task, split):
        return [range(0, 40), range(40, 64)]

    def batches(self, task, split, size, span):
        for part in self.points[span.start : span.stop].split(size):
            yield Batch(task.name, part, (part[:, 0] > 0).long())

    def data_digest(self, task, split):
        return split

    def loss(self, batch):
        return nn.functional.cross_entropy(self._model(batch.inputs), batch.labels)

    def predictor(self, weights, precision=None):
        return lambda batch: torch.func.functional_call(self._model, dict(weights), (batch.inputs,)).argmax(1)


class Points:
    name = definition = "points"

    def examples(self, split):
        return range(64)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    rates = [RECIPE.rate(step, 40) for step in range(41)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1]) and rates[4] == pytest.approx(0.1)
    assert rates[22] == pytest.approx(0.05) and rates[40] == pytest.approx(0.0)


def test_finetuning_learns_reports_each_step_and_writes_the_weights(tmp_path):
    family, planned, steps = Line(), [], []
    finetune(family, Points(), RECIPE, tmp_path / "a" / "w.safetensors", planned.append, lambda what, done: steps.append(done))
    assert planned == [40] and steps == [1] * 40 and family.prepared == ["points"]
    written = open_checkpoint(tmp_path / "a" / "w.safetensors")
    predict = family.predictor(written)
    right = sum(int((predict(batch) == batch.labels).sum()) for batch in family.batches(Points(), "test", 64, range(64)))
    assert right >= 56  # of 64; before training 17
    assert all(torch.equal(written[key], leaf) for key, leaf in family.weights().items())


def test_the_same_seed_gives_the_same_weights(tmp_path):
    family = Line()
    for name in ("a", "b"):
        finetune(family, Points(), RECIPE, tmp_path / name / "w.safetensors", lambda n: None, lambda what, done: None)
    first, second = ((tmp_path / name / "w.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_loss_that_leaves_the_numbers_writes_nothing(tmp_path):
    family = Line()
    family.points = family.points * float("nan")
    with pytest.raises(UserError, match="points"):
        finetune(family, Points(), RECIPE, tmp_path / "w.safetensors", lambda n: None, lambda what, done: None)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("field", ["lr", "epochs", "batch_size", "max_grad_norm"])
def test_impossible_recipes_are_refused_by_name(field):
    with pytest.raises(ValueError, match=field):
        replace(RECIPE, **{field: 0})


def test_weights_made_for_other_classes_are_told_apart(tmp_path):
    family, task = Line(), Points()
    finetune(family, task, RECIPE, tmp_path / "w.safetensors", lambda steps: None, lambda what, done: None)
    assert mismatch(tmp_path / "w.safetensors", family, RECIPE, task) is None
    other = Points()
    other.definition = "points with other names"
    assert "other classes or prompts" in mismatch(tmp_path / "w.safetensors", family, RECIPE, other)
    other.name = "lines"
    assert "on points, not on lines" in mismatch(tmp_path / "w.safetensors", family, RECIPE, other)
    assert "lr=0.1, not 0.2" in mismatch(tmp_path / "w.safetensors", family, replace(RECIPE, lr=0.2), task)
