import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import metadata_of
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.models.family import Trainable
from src.models.modes import Mode
from src.runtime.signals import StopRequested
from src.training.loop import TrainingSettings, finetune
from src.training.provenance import mismatch
from src.training.recipe import SCHEDULES, Recipe
from src.training.schedule import BatchSchedule
from src.training.state import log_path, state_path
from tests.helpers.linear_family import LinearFamily, Points
from tests.helpers.progress import RecordedProgress, SignalAt

RECIPE = Recipe(
    lr=0.1, weight_decay=0.0, warmup_steps=4, epochs=5, batch_size=8, num_grad_accumulation=1, max_grad_norm=1.0, seed=0
)
STANDARD = Mode("standard", "nonlinear", "all", "never", None)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    rates = [RECIPE.rate(step, 40) for step in range(41)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1]) and rates[4] == pytest.approx(0.1)
    assert rates[22] == pytest.approx(0.05) and rates[40] == pytest.approx(0.0)


@pytest.mark.parametrize(("count", "batch", "accumulated"), [(64, 8, 1), (61, 8, 2), (5, 8, 1), (33, 16, 2), (1, 4, 3)])
def test_each_epoch_sees_every_example_once_in_an_order_of_its_own(count, batch, accumulated):
    schedule = BatchSchedule(count, replace(RECIPE, epochs=3, batch_size=batch, num_grad_accumulation=accumulated))
    seen: dict = {}
    for step, micro_batches in enumerate(schedule.micro_batches(0, 1, 0)):
        ids = [example for micro_batch in micro_batches for example in micro_batch.examples]
        assert len(ids) == schedule.size(step) and all(len(micro_batch.examples) <= batch for micro_batch in micro_batches)
        assert sum(each.weight * len(each.examples) for each in micro_batches) == pytest.approx(1)  # a mean over the step
        for epoch, index in ids:
            seen.setdefault(epoch, []).append(index)
    assert all(sorted(indices) == list(range(count)) for indices in seen.values()) and list(seen) == [0, 1, 2]
    assert count < 5 or len({tuple(indices) for indices in seen.values()}) == 3


@pytest.mark.parametrize("size", [2, 3, 8])
def test_processes_share_each_step_and_a_later_start_changes_nothing(size):
    schedule = BatchSchedule(61, replace(RECIPE, epochs=2, batch_size=8, num_grad_accumulation=2))
    single = list(schedule.micro_batches(0, 1, 0))
    by_rank = [list(schedule.micro_batches(rank, size, 0)) for rank in range(size)]
    for step, micro_batches in enumerate(single):
        shares = [steps[step] for steps in by_rank]
        assert all(len(share) == len(micro_batches) for share in shares)  # passes, which all make together
        ids = [example for share in shares for each in share if each.weight for example in each.examples]
        assert sorted(ids) == sorted(example for each in micro_batches for example in each.examples)
    assert list(schedule.micro_batches(0, 1, 5)) == single[5:]


def test_finetuning_learns_reports_each_step_and_writes_the_weights(tmp_path):
    family, progress, entries = LinearFamily(), RecordedProgress(), []
    path = tmp_path / "a" / "line_finetuned.safetensors"
    settings = TrainingSettings(progress=progress, log_callbacks=(entries.append,))
    finetune(family, Points(), RECIPE, STANDARD, path, settings)
    assert progress.planned == [40] and [done for _, done in progress.reports] == [0] + [1] * 40
    assert family.prepared == ["points"] and [entry.step for entry in entries] == [10, 20, 30, 40]
    assert entries[-1].epoch == 5 and entries[-1].loss < entries[0].loss / 2
    lines = (path.parent / "line_training.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [entry.loss for entry in entries]
    predict = family.predictor(open_checkpoint(path))
    right = sum(int((predict(batch) == batch.labels).sum()) for batch in family.batches(Points(), "test", 64, range(64)))
    assert right >= 56  # of 64; before training 17
    assert metadata_of(path)["task"] == "points" and not state_path(path).exists()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / name / "w.safetensors"
        finetune(LinearFamily(), Points(), replace(RECIPE, seed=seed), STANDARD, path, TrainingSettings())
        contents.append({key: leaf.clone() for key, leaf in open_checkpoint(path).items()})
    first, second, third = contents
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


@pytest.mark.parametrize(("size", "accumulated"), [(8, 2), (6, 4), (7, 3)])
def test_accumulated_batches_are_one_step_of_their_mean(tmp_path, size, accumulated):
    """Of 64 points, 6 x 4 end each epoch on a step of 6, 6 and 4, and 7 x 3 on one of a single point."""
    weights = []
    for batch_size, num_grad_accumulation in ((size * accumulated, 1), (size, accumulated)):
        recipe = replace(RECIPE, batch_size=batch_size, num_grad_accumulation=num_grad_accumulation, epochs=2)
        path = tmp_path / f"{batch_size}.safetensors"
        finetune(LinearFamily(), Points(), recipe, STANDARD, path, TrainingSettings())
        weights.append(dict(open_checkpoint(path)))
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(tmp_path, number):
    whole, parts = tmp_path / "whole_finetuned.safetensors", tmp_path / "parts_finetuned.safetensors"
    finetune(LinearFamily(), Points(), RECIPE, STANDARD, whole, TrainingSettings())
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    for at in (3, 10, 11, 20):  # counted from the start
        with pytest.raises(StopRequested, match="the same command goes on") as stopped:
            finetune(
                LinearFamily(), Points(), RECIPE, STANDARD, parts, TrainingSettings(progress=SignalAt(at, number), log_steps=3)
            )
        assert stopped.value.number == number and state_path(parts).exists() and not parts.exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    with pytest.raises(StopRequested, match="goes on with the next task"):  # at the last step, all is written first
        finetune(LinearFamily(), Points(), RECIPE, STANDARD, parts, TrainingSettings(progress=SignalAt(40, number), log_steps=3))
    assert whole.read_bytes() == parts.read_bytes() and not state_path(parts).exists()
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts_training.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 40


def test_a_state_is_saved_on_the_way_and_one_of_another_fine_tuning_is_refused(tmp_path):
    path = tmp_path / "w_finetuned.safetensors"
    with pytest.raises(KeyError):  # killed, as far as this process can be

        def die(entry):
            if entry.step == 20:
                raise KeyError

        finetune(LinearFamily(), Points(), RECIPE, STANDARD, path, TrainingSettings(save_minutes=0, log_callbacks=(die,)))
    assert metadata_of(state_path(path))["step"] == "19"
    with pytest.raises(UserError, match=r"lr=0\.1, not 0\.2"):
        finetune(LinearFamily(), Points(), replace(RECIPE, lr=0.2), STANDARD, path, TrainingSettings())
    other = Points()
    other.fingerprint = lambda split: "other images"
    with pytest.raises(UserError, match="with another set of examples; remove it"):
        finetune(LinearFamily(), other, RECIPE, STANDARD, path, TrainingSettings())
    finetune(LinearFamily(), Points(), RECIPE, STANDARD, path, TrainingSettings())
    finetune(LinearFamily(), Points(), RECIPE, STANDARD, tmp_path / "whole.safetensors", TrainingSettings())
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_step_is_adamw_s_after_clipping_by_hand(tmp_path):
    """The first step from zero moments moves each entry by lr against its gradient's sign, after decay; a second one sees
    the clipped gradients' moments."""
    recipe = replace(RECIPE, lr=0.01, weight_decay=0.5, warmup_steps=0, epochs=1, batch_size=32, max_grad_norm=1e-3)
    family, path = LinearFamily(), tmp_path / "w.safetensors"
    finetune(family, Points(), recipe, STANDARD, path, TrainingSettings())
    weights = {key: leaf.clone().requires_grad_() for key, leaf in family.pretrained.items()}
    first, second = ({key: torch.zeros_like(leaf) for key, leaf in weights.items()} for _ in range(2))
    for step, (micro_batch,) in enumerate(BatchSchedule(64, recipe).micro_batches(0, 1, 0), start=1):
        (batch,) = family.training_batches(Points(), [micro_batch.examples], 0, 0)
        found = torch.func.functional_call(family._model, weights, (batch.inputs,))
        gradients = dict(zip(weights, torch.autograd.grad(nn.functional.cross_entropy(found, batch.labels), weights.values())))
        norm = torch.sqrt(sum(leaf.pow(2).sum() for leaf in gradients.values()))
        rate = recipe.rate(step - 1, 2)
        for key, gradient in gradients.items():
            clipped = gradient * min(1.0, 1e-3 / (norm.item() + 1e-6))
            first[key] = 0.9 * first[key] + 0.1 * clipped
            second[key] = 0.999 * second[key] + 0.001 * clipped**2
            move = (first[key] / (1 - 0.9**step)) / ((second[key] / (1 - 0.999**step)).sqrt() + 1e-8)
            with torch.no_grad():
                weights[key] -= rate * (0.5 * weights[key] + move)
    written = open_checkpoint(path)
    for key, leaf in weights.items():
        torch.testing.assert_close(written[key], leaf.detach(), rtol=1e-4, atol=1e-6)


def test_a_loss_that_leaves_the_numbers_writes_nothing(tmp_path):
    family = LinearFamily()
    family.points = family.points * float("nan")
    with pytest.raises(UserError, match="points"):
        finetune(family, Points(), RECIPE, STANDARD, tmp_path / "w.safetensors", TrainingSettings(save_minutes=0))
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_signal_after_the_loss_left_the_numbers_promises_nothing(tmp_path):
    family = LinearFamily()
    family.points = family.points * float("nan")
    with pytest.raises(UserError, match="became nan"):  # nothing was saved that a rerun could go on from
        finetune(family, Points(), RECIPE, STANDARD, tmp_path / "w.safetensors", TrainingSettings(progress=SignalAt(2)))
    assert not list(tmp_path.glob("*.safetensors"))


class NanGradients(LinearFamily):
    """A family whose loss is finite and whose gradients are not numbers."""

    def trainable(self, mode):
        trainable = super().trainable(mode)

        def loss(entries, batch):
            return trainable._loss(entries, batch) + 0 * (0 * entries["weight"]).sqrt().sum()

        return Trainable(trainable.entries, loss, save_file, 6)


@pytest.mark.parametrize(
    "settings", [TrainingSettings(), TrainingSettings(save_minutes=0), TrainingSettings(progress=SignalAt(1))]
)
@pytest.mark.parametrize("epochs", [1, 2])
def test_gradients_that_are_no_numbers_write_nothing_though_the_loss_is_finite(tmp_path, settings, epochs):
    recipe = replace(RECIPE, batch_size=64, num_grad_accumulation=1, epochs=epochs)
    with pytest.raises(UserError, match="became nan"):
        finetune(NanGradients(), Points(), recipe, STANDARD, tmp_path / "w.safetensors", settings)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("field", ["lr", "epochs", "batch_size", "max_grad_norm", "num_grad_accumulation", "steps", "patience"])
@pytest.mark.parametrize("value", [0, "x", True, None])
def test_impossible_recipes_are_refused_by_name(field, value):
    if value is None and field in ("max_grad_norm", "steps", "patience"):
        assert getattr(replace(RECIPE, **{field: None}), field) is None
        return
    with pytest.raises(ValueError, match=field):
        replace(RECIPE, **{field: value})


def test_how_long_is_said_once_and_patience_needs_evaluations():
    for changes, problem in (
        ({"steps": 5}, "epochs or steps"),
        ({"epochs": None}, "epochs or steps"),
        ({"patience": 2}, "evaluate_steps"),
        ({"schedule": "square"}, "cosine, linear, constant"),
    ):
        with pytest.raises(UserError, match=problem):
            replace(RECIPE, **changes)


def test_rates_follow_the_schedule():
    rates = {name: [replace(RECIPE, schedule=name).rate(step, 14) for step in (0, 3, 4, 9, 13)] for name in SCHEDULES}
    assert rates["constant"] == pytest.approx([0.025, 0.1, 0.1, 0.1, 0.1])
    assert rates["linear"] == pytest.approx([0.025, 0.1, 0.1, 0.05, 0.01])
    assert rates["cosine"][2:4] == pytest.approx([0.1, 0.05])


def test_a_recipe_without_new_options_has_the_facts_that_earlier_weights_have():
    assert RECIPE.facts == {
        "lr": 0.1, "weight_decay": 0.0, "warmup_steps": 4, "epochs": 5, "batch_size": 8, "num_grad_accumulation": 1,
        "max_grad_norm": 1.0, "seed": 0,
    }  # fmt: skip
    assert replace(RECIPE, epochs=None, steps=7).facts == {**RECIPE.facts, "epochs": None, "steps": 7}


class Scripted(LinearFamily):
    """A family whose validation scores are those of a script."""

    def __init__(self, scores):
        super().__init__()
        self.script, self.seen = iter(scores), []

    def predictor(self, weights, precision=None):
        self.seen.append({key: leaf.clone() for key, leaf in weights.items()})
        value = next(self.script)
        return SimpleNamespace(scores=lambda batch: torch.full((len(batch),), value))


def test_the_best_weights_are_kept_and_training_ends_without_better_ones(tmp_path):
    scores = [0.25, 0.5, 0.5, 0.25, 0.75, 1.0]
    family, path = Scripted(scores), tmp_path / "w.safetensors"
    recipe = replace(RECIPE, epochs=None, steps=100, evaluate_steps=2, patience=2)
    finetune(family, Points(), recipe, STANDARD, path, TrainingSettings())
    assert len(family.seen) == 4  # the second is best, and two without gain follow
    kept, metadata = open_checkpoint(path), metadata_of(path)
    assert (metadata["best_step"], metadata["best_score"]) == ("4", "0.5")
    lines = [json.loads(line) for line in log_path(path).read_text().splitlines()]
    assert [line["validation"] for line in lines if "validation" in line] == scores[:4]
    assert all(torch.equal(kept[key], leaf) for key, leaf in family.seen[1].items())
    assert any(not torch.equal(kept[key], leaf) for key, leaf in family.seen[3].items())


def test_best_weights_are_the_same_when_training_was_stopped(tmp_path):
    scores = [0.25, 0.5, 0.25, 0.125, 0.25, 0.375, 0.75]
    recipe = replace(RECIPE, epochs=None, steps=100, evaluate_steps=2, patience=4)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    finetune(Scripted(scores), Points(), recipe, STANDARD, whole, TrainingSettings())
    family = Scripted(scores)
    with pytest.raises(StopRequested):
        finetune(family, Points(), recipe, STANDARD, parts, TrainingSettings(progress=SignalAt(7)))
    finetune(family, Points(), recipe, STANDARD, parts, TrainingSettings())
    assert len(family.seen) == 6
    kept, expected = open_checkpoint(parts), open_checkpoint(whole)
    assert all(torch.equal(kept[key], leaf) for key, leaf in expected.items())


def test_weights_made_for_other_classes_are_told_apart(tmp_path):
    family, task, path = LinearFamily(), Points(), tmp_path / "w.safetensors"
    finetune(family, task, RECIPE, STANDARD, path, TrainingSettings())
    assert mismatch(path, family, RECIPE, STANDARD, task) is None
    assert mismatch(path, family, RECIPE, replace(STANDARD, linearized="posthoc"), task) is None  # the same weights
    other = Points()
    other.definition = "points with other names"
    assert "other classes or prompts" in mismatch(path, family, RECIPE, STANDARD, other)
    other.name = "lines"
    assert "on points, not on lines" in mismatch(path, family, RECIPE, STANDARD, other)
    assert "lr=0.1, not 0.2" in mismatch(path, family, replace(RECIPE, lr=0.2), STANDARD, task)
    assert "trains=all, not mlp" in mismatch(path, family, RECIPE, replace(STANDARD, trains="mlp"), task)
