"""AdaMerging: its gradients against finite differences, on both kinds of models, and steps by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from src.checkpoints.solved import SolvedEntries
from src.errors import UserError
from src.merging import adamerging
from src.merging.adamerging import AdaMerging, gradient_of
from src.merging.engine.inputs import MergeInputs
from src.statistics.entropy import SampledEntropy
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.likely_families import ia3_family, image_family, image_task, other_image_task, text_family
from tests.helpers.linear_entropy import LinearEntropy
from tests.helpers.linear_family import LinearFamily
from tests.helpers.text_models import GoldenTask

METHOD = AdaMerging(per="layer", split="test", iterations=3, lr=0.1, initial_lambda=0.3, batch_size=4, seed=0)
TEXTS = {"alpha": GoldenTask("alpha"), "gamma": GoldenTask("gamma")}  # of choices, and of generated answers


def family_and_tasks(name):
    if name == "images":
        return image_family(), {task.name: task for task in (image_task(), other_image_task())}
    return (text_family if name == "text" else ia3_family)(), TEXTS


def inputs_of(name, family=None, tasks=None) -> MergeInputs:
    """Return two models near a family's pre-trained one, with the family's entropy of predictions."""
    own, own_tasks = family_and_tasks(name)
    family, tasks = family or own, tasks or own_tasks
    draw = torch.Generator().manual_seed(0)
    models = {task: {key: leaf + 0.03 * torch.randn(leaf.shape, generator=draw) if leaf.is_floating_point() else leaf
                     for key, leaf in family.pretrained.items()} for task in tasks}  # fmt: skip
    entropy = partial(SampledEntropy, family, tasks)
    return MergeInputs(family.pretrained, models, family.depth, family.is_layer, family.device, True, unlabelled=entropy)


def coefficients_of(method, inputs):
    return method._learn(inputs, inputs.entropy_on(method.split, method.batch_size, method.seed), method.columns(inputs))


@pytest.mark.parametrize("name", ["images", "text", "ia3"])
def test_a_gradient_is_what_the_entropy_differs_by(name):
    """Along a random direction of all tasks' and layers' coefficients; those of one task are the sum of its layers'."""
    inputs = inputs_of(name)
    entropy, layers = inputs.entropy_on("test", 4, 0), METHOD.columns(inputs)
    start = torch.full((2, len(layers)), 0.3, dtype=torch.float64)
    gradient = gradient_of(start, layers, inputs, entropy, 0)

    def value(coefficients):
        model = {key: inputs.pretrained[key] + sum(number.item() * vector[key] for number, vector in zip(coefficients[:, column], inputs.vectors.values()))
                 for key, column in layers.items()}  # fmt: skip
        with torch.no_grad():
            return sum(entropy.by_task(0, {**inputs.pretrained, **model})).item()

    direction = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 0.003
    expected = (value(start + step * direction) - value(start - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=0.02)
    tied = gradient_of(start[:, :1], replace(METHOD, per="task").columns(inputs), inputs, entropy, 0)
    torch.testing.assert_close(tied[:, 0], gradient.sum(1), rtol=1e-4, atol=1e-6)


def test_steps_of_a_constant_gradient_are_of_one_size_and_end_at_zero_and_one():
    """Adam moves by the learning rate where the gradient stays: 0.3, 0.2, 0.1 for a vector of a positive sum, 0.4, 0.5 else."""
    pretrained = {"blocks.0.w": torch.zeros(2, 3), "blocks.0.b": torch.zeros(3)}
    up, down = (
        {"blocks.0.w": torch.ones(2, 3), "blocks.0.b": -torch.ones(3)},
        {"blocks.0.w": -torch.ones(2, 3), "blocks.0.b": -torch.ones(3)},
    )
    inputs = replace(merge_inputs((pretrained, {"up": up, "down": down})), unlabelled=lambda *_: LinearEntropy(2))
    by_layer = coefficients_of(replace(METHOD, iterations=2), inputs)
    torch.testing.assert_close(by_layer, torch.tensor([[0.1, 0.5], [0.5, 0.5]]).double())
    vector = replace(METHOD, iterations=2)(inputs)(1.0)["up"]
    torch.testing.assert_close(vector["blocks.0.w"], torch.full((2, 3), 0.1 - 0.5))
    torch.testing.assert_close(vector["blocks.0.b"], torch.full((3,), -0.5 - 0.5))
    by_task = coefficients_of(replace(METHOD, iterations=2, per="task"), inputs)
    torch.testing.assert_close(by_task, torch.tensor([[0.1], [0.5]]).double())
    assert coefficients_of(replace(METHOD, iterations=20), inputs).tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert "up 0.300, down 0.500" in inputs.notes[0]


@pytest.mark.parametrize("name", ["images", "text"])
def test_entropy_is_learned_to_be_less_the_same_with_one_seed(name):
    inputs = inputs_of(name)
    entropy, method = inputs.entropy_on("test", 100, 0), replace(METHOD, batch_size=100, iterations=4, lr=0.05)

    def value(vector):
        with torch.no_grad():
            return sum(
                entropy.by_task(0, {**inputs.pretrained, **{key: inputs.pretrained[key] + leaf for key, leaf in vector.items()}})
            )

    first = next(iter(inputs.vectors))
    start = {key: 0.3 * sum(vector[key] for vector in inputs.vectors.values()) for key in inputs.vectors[first]}
    assert value(method(inputs)(1.0)[first]) < value(start)
    few, again, other = (coefficients_of(replace(METHOD, batch_size=2, seed=seed), inputs) for seed in (0, 0, 1))
    assert torch.equal(few, again) and not torch.equal(few, other)


def test_labels_are_not_read():
    images, texts = inputs_of("images"), inputs_of("text")
    others = image_family().with_labels(lambda labels: labels.flip(0) + 1)
    assert torch.equal(coefficients_of(METHOD, images), coefficients_of(METHOD, inputs_of("images", family=others)))

    def turned(examples):
        return [
            replace(each, target=each.choices[0] if each.choices else "t9", label=each.choices and 0, references=("t9",))
            for each in examples
        ]

    wrong = {name: GoldenTask(name, edit=turned) for name in TEXTS}
    assert any(each.label for each in TEXTS["alpha"].examples("test"))
    try:
        family = text_family()
        family._splits.clear()
        assert torch.equal(coefficients_of(METHOD, texts), coefficients_of(METHOD, inputs_of("text", tasks=wrong)))
    finally:
        family._splits.clear()


def test_a_killed_run_goes_on_from_what_it_kept(tmp_path, monkeypatch):
    method, models = replace(METHOD, iterations=120, lr=0.001), tiny_models(2)
    solved = SolvedEntries(tmp_path, ["a run"])

    def run(entropy):
        inputs = replace(merge_inputs(models), unlabelled=lambda *_: entropy, solved=solved)
        return method(inputs)(1.0)["task0"]

    killed, rest, all_steps = LinearEntropy(2, stop=110), LinearEntropy(2), LinearEntropy(2)
    with pytest.raises(KeyboardInterrupt):
        run(killed)["head.bias"]
    resumed = run(rest)
    assert killed.steps == list(range(110)) and rest.steps == list(range(100, 120))
    solved.remove()
    monkeypatch.setattr(adamerging, "KEPT_TOGETHER", 1000)  # all steps by one optimiser
    for key, leaf in run(all_steps).items():
        assert torch.equal(leaf, resumed[key])
    assert len(all_steps.steps) == 120


def test_without_data_or_a_sure_model_nothing_is_learned():
    inputs = replace(merge_inputs(tiny_models()), unlabelled=None)
    with pytest.raises(UserError, match="files of weights come with none"):
        METHOD(inputs)
    with pytest.raises(UserError, match="does not say how sure"):
        METHOD(replace(inputs, unlabelled=partial(SampledEntropy, LinearFamily(), {})))


def test_options_are_checked_together():
    with pytest.raises(UserError) as excinfo:
        AdaMerging(per="all", split="train", iterations=0, lr=0, initial_lambda=2, batch_size=1.5, seed=-1)
    assert len(excinfo.value.problems) == 7
