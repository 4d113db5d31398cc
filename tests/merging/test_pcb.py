import pytest
import torch
from torch import Tensor

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from tests.conftest import Models, merge_inputs, tiny_models


def merged(models: Models, *options: str) -> Tensor:
    """The merged vector, flat."""
    vector = build_method(compose_config(["method=pcb", *options]))(merge_inputs(models))(1.0)["task0"]
    return torch.cat([vector[key].flatten() for key in vector])


def flat_vectors(models: Models) -> Tensor:
    pretrained, finetuned = models
    keys = [key for key, leaf in pretrained.items() if leaf.is_floating_point()]
    return torch.stack([torch.cat([(model[key] - pretrained[key]).flatten() for key in keys]) for model in finetuned.values()])


@pytest.mark.parametrize("ratio", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("form", ["vision", "language"])
def test_entries_are_weighted_by_their_scores_above_the_threshold(form, ratio):
    models = tiny_models()
    vectors = flat_vectors(models).double()
    tasks, size = vectors.shape
    clip = {"vision": 0.01, "language": 1e-4}[form]
    magnitudes = vectors.abs().sort(1).values
    low, high = magnitudes[:, int(size * clip), None], magnitudes[:, int(size * (1 - clip) - 1), None]
    clipped = vectors.abs().clamp(low, high)
    scaled = (clipped - low) / (high - low) * vectors.sign()
    pairs = torch.tanh(scaled[:, None] * scaled[None]).sum(1)
    agreement = pairs if form == "vision" else torch.tanh(vectors * vectors.sum(0))
    scores = torch.exp(tasks * scaled**2) * agreement
    least = scores.sort(1).values[:, min(int(size * (1 - ratio)), size - 1), None]
    most = scores.amax(1, keepdim=True)
    weights = (scores.clamp_min(least) - least) / (most - least)
    expected = (clipped * vectors.sign() * weights).sum(0) / weights.sum(0).clamp_min(1e-12)
    torch.testing.assert_close(
        merged(models, f"method.form={form}", f"method.ratio={ratio}").double(), expected, rtol=1e-4, atol=1e-7
    )


def test_the_vision_form_follows_the_vectors_size():
    pretrained, finetuned = tiny_models()
    doubled = {task: {key: leaf + (leaf - pretrained[key]) if leaf.is_floating_point() else leaf for key, leaf in model.items()}
               for task, model in finetuned.items()}  # fmt: skip
    torch.testing.assert_close(merged((pretrained, doubled)), 2 * merged((pretrained, finetuned)), rtol=1e-3, atol=1e-6)


def test_a_task_without_changes_or_with_equal_ones_has_no_weight():
    pretrained, finetuned = tiny_models(tasks=2)
    alone = merged((pretrained, {"task0": finetuned["task0"], "task1": pretrained}))
    vector = flat_vectors((pretrained, finetuned))[0]
    assert alone.isfinite().all() and alone.any() and (alone * vector >= 0).all()
    steps = {key: leaf + 1 if leaf.is_floating_point() else leaf for key, leaf in finetuned["task0"].items()}
    zero = {key: torch.zeros_like(leaf) for key, leaf in pretrained.items()}
    ones = {key: torch.ones_like(leaf) for key, leaf in steps.items()}
    assert not merged((zero, {"task0": ones, "task1": ones})).any()


@pytest.mark.parametrize("options,message", [("method.ratio=0", "above 0"), ("method.form=audio", "vision or language")])
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        merged(tiny_models(), options)
