import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src.errors import UserError
from src.task_vectors import NonLinearTaskVector, TaskVector


def vector(*values: float) -> TaskVector:
    return TaskVector.of({"w": torch.tensor(values)})


def test_a_vector_is_finetuned_minus_pretrained_from_dicts_modules_and_paths(tmp_path, models):
    pretrained, finetuned = models
    after = finetuned["task0"]
    save_file(pretrained, tmp_path / "a.safetensors")
    torch.save(after, tmp_path / "b.pt")
    from_dicts = TaskVector(pretrained, after)
    from_paths = NonLinearTaskVector(str(tmp_path / "a.safetensors"), tmp_path / "b.pt")
    assert "positions" not in from_dicts
    for key, leaf in from_dicts.items():
        assert torch.equal(leaf, after[key] - pretrained[key]) and torch.equal(leaf, from_paths[key])
    before, trained = nn.Linear(2, 2), nn.Linear(2, 2)
    kept = trained.weight.detach().clone()
    move = TaskVector(before, trained)
    with torch.no_grad():
        trained.weight.zero_()  # training on must not change a vector that was taken
    assert torch.equal(move["weight"], kept - before.weight)


def test_arithmetic_of_the_papers_readmes():
    a, b = vector(1.0, -2.0, 3.0), vector(4.0, 0.5, -1.0)
    assert (0.5 * a + 0.7 * b)["w"].tolist() == pytest.approx([3.3, -0.65, 0.8])
    assert (-a)["w"].tolist() == [-1, 2, -3] and (a - b)["w"].tolist() == [-3, -2.5, 4]
    assert (a / 2)["w"].tolist() == [0.5, -1, 1.5] and (a * 2)["w"].tolist() == [2, -4, 6]
    assert sum([a, b])["w"].tolist() == [5, -1.5, 2] and a.sum() == 2.0
    m = a + b
    mask = a.abs() > (m - a).abs() * 0.4
    assert mask["w"].tolist() == [False, True, True] and mask["w"].dtype == torch.bool
    assert (m * mask)["w"].tolist() == [0, -1.5, 2] and mask.sum() == 2
    assert (a > 0)["w"].tolist() == [True, False, True] and abs(a)["w"].tolist() == [1, 2, 3]
    assert a.dot(b) == 0.0 and a.norm(1) == 6.0 and a.norm() == pytest.approx(14**0.5)
    assert a.cosine(a) == pytest.approx(1) and a.cosine(0 * a) == 0.0


@pytest.mark.parametrize("number", [np.float64(0.3), np.float32(0.25), np.float16(0.5), np.int64(2)])
def test_numbers_of_numpy_count_as_numbers_on_either_side(number):
    """An array has arithmetic of its own, which would take the vector for a sequence of names."""
    a = vector(1.0, -2.0, 3.0)
    for result, expected in ((number * a, number.item() * a), (a * number, a * number.item()), (number + a, number.item() + a),
                             (number - a, number.item() - a), (a / number, a / number.item())):  # fmt: skip
        assert type(result) is TaskVector and result["w"].dtype == torch.float32
        assert torch.equal(result["w"], expected["w"])
    assert (number < a)["w"].tolist() == (a > number.item())["w"].tolist()
    with pytest.raises(TypeError):
        np.ones(3) * a


def test_adding_to_a_state_dict_gives_a_state_dict_and_keeps_its_dtypes(models):
    pretrained, finetuned = models
    move = TaskVector(pretrained, finetuned["task0"])
    halves = OrderedDict((key, leaf.half() if leaf.is_floating_point() else leaf) for key, leaf in pretrained.items())
    edited = halves + move
    assert type(edited) is dict and edited.keys() == halves.keys()
    assert edited["embed.weight"].dtype == torch.float16 and torch.equal(edited["positions"], pretrained["positions"])
    expected = (halves["embed.weight"].float() + move["embed.weight"]).half()
    assert torch.equal(edited["embed.weight"], expected)
    assert torch.equal(move.apply_to(pretrained, scaling_coef=0.8)["head.bias"],
                       torch.add(pretrained["head.bias"], move["head.bias"], alpha=0.8))  # fmt: skip


def test_applying_to_a_module_returns_a_new_module():
    before = nn.Linear(2, 2)
    move = TaskVector(before, nn.Linear(2, 2))
    edited = move.apply_to(before, scaling_coef=0.0)
    assert edited is not before and torch.equal(edited.weight, before.weight)


def test_other_names_and_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match="lacks v"):
        vector(1.0) + TaskVector.of({"v": torch.ones(1)})
    with pytest.raises(ValueError, match=r"w has shape \(1,\)"):
        vector(1.0) - vector(1.0, 2.0)
    with pytest.raises(UserError, match="w"):
        {"v": torch.ones(1)} + vector(1.0)
    with pytest.raises(TypeError):
        vector(1.0) * "two"


def test_loading_keeps_the_entries(models):
    pretrained, finetuned = models
    move = 2 * TaskVector(pretrained, finetuned["task0"])
    assert move["head.bias"] is not move["head.bias"]
    kept = move.load()
    assert kept["head.bias"] is kept["head.bias"] and torch.equal(kept["head.bias"], move["head.bias"])


EXPRESSIONS = {
    "a": lambda a, b: a,
    "0.3 * (a + b)": lambda a, b: 0.3 * (a + b),
    "-(a - b) / 2": lambda a, b: -(a - b) / 2,
    "sum": lambda a, b: sum([a, b]),
    "masked": lambda a, b: (a + b) * (a.abs() > (a + b - a).abs() * 0.4),
    "loaded": lambda a, b: 0.5 * (a + b).load(),
    "mapped": lambda a, b: (a + b).map(lambda key, entry: entry * len(key)),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_no_model_changed_takes_no_memory_and_is_shared_with_the_pretrained_weights(models, expression, on_disk, tmp_path):
    pretrained, finetuned = models
    sources = [pretrained, *finetuned.values()]
    if on_disk:
        for number, model in enumerate(sources):
            save_file(model, tmp_path / f"{number}.safetensors")
        sources = [tmp_path / f"{number}.safetensors" for number in range(3)]
    a, b = (TaskVector(sources[0], source) for source in sources[1:3])
    vector = EXPRESSIONS[expression](a, b)
    assert vector["frozen.weight"].untyped_storage().nbytes() <= 8 and not vector["frozen.weight"].any()
    edited = vector.apply_to(pretrained)
    shared = {key for key, leaf in edited.items() if leaf.data_ptr() == pretrained[key].data_ptr()}
    assert shared == {"frozen.weight", "positions"}


def test_an_entry_that_is_equal_and_not_finite_is_unchanged():
    model = {"mask": torch.tensor([0.0, float("-inf")]), "w": torch.ones(2)}
    edited = (2 * TaskVector(model, {**model, "mask": model["mask"].clone()})).apply_to(model)
    assert torch.equal(edited["mask"], model["mask"])


def test_a_module_shares_nothing_with_the_one_it_was_made_of():
    before = nn.Linear(2, 2)
    edited = TaskVector(before, nn.Linear(2, 2)).apply_to(before, scaling_coef=0.0)
    assert edited.weight.data_ptr() != before.weight.data_ptr()


def test_sums_that_overflow_the_pretrained_dtype_are_refused_by_name():
    with pytest.raises(UserError, match=r"w overflows torch\.float16"):
        {"w": torch.tensor([60000.0]).half()} + vector(20000.0)


@pytest.mark.parametrize(
    "key,leaf", [("scalar", torch.tensor(2.0)), ("empty", torch.zeros(0, 3)), ("turned", torch.ones(3, 4).T)]
)
def test_tensors_of_unusual_form(key, leaf):
    other = torch.full_like(leaf, 5.0)
    move = TaskVector({key: leaf}, {key: other})
    assert torch.equal(move[key], other - leaf) and torch.equal(({key: leaf} + move)[key], other)
    assert move.norm(1) == pytest.approx((other - leaf).abs().sum().item())


def test_complex_entries_are_in_vectors_as_they_are():
    before = {
        "w": torch.randn(3),
        "spectral.weight": torch.randn(3, 2, dtype=torch.complex64),
        "z": torch.randn(2, dtype=torch.cdouble),
    }
    after = {key: leaf + torch.randn_like(leaf) for key, leaf in before.items()}
    vector = TaskVector(before, after)
    assert {key: leaf.dtype for key, leaf in vector.items()} == {
        "w": torch.float32,
        "spectral.weight": torch.complex64,
        "z": torch.cdouble,
    }
    edited = vector.apply_to(before)
    assert all(torch.allclose(edited[key], after[key]) and edited[key].dtype == after[key].dtype for key in after)
    flat = torch.cat(
        [torch.view_as_real(leaf).double().flatten() if leaf.is_complex() else leaf.double() for leaf in vector.values()]
    )
    assert vector.norm() == pytest.approx(flat.norm().item()) and vector.cosine(2 * vector) == pytest.approx(1)
    assert not dict(TaskVector(before, before))["z"].any()


def test_a_vector_says_what_it_is(tmp_path):
    save_file({"w": torch.ones(2, 3), "b": torch.ones(3)}, tmp_path / "base.safetensors")
    save_file({"module.w": torch.ones(2, 3), "module.b": torch.ones(3)}, tmp_path / "cars.safetensors")
    with pytest.warns(UserWarning, match=r"cars\.safetensors: read without regard to module in names"):
        vector = TaskVector(tmp_path / "base.safetensors", tmp_path / "cars.safetensors")
    assert repr(vector) == (
        f"<TaskVector, {tmp_path}/cars.safetensors minus {tmp_path}/base.safetensors: 2 entries, 9 numbers (b (3,), w (2, 3))>"
    )
    assert repr(0.5 * vector) == "<TaskVector: 2 entries, 9 numbers (b (3,), w (2, 3))>"


def test_integers_that_fine_tuning_changed_are_warned_of():
    before = {"w": torch.ones(2), "seen": torch.tensor(1)}
    with pytest.warns(UserWarning, match="in no task vector, though fine-tuning changed them: seen"):
        vector = TaskVector(before, {"w": torch.ones(2), "seen": torch.tensor(7)})
    assert list(vector) == ["w"]
    TaskVector(before, before)


def test_an_adapter_is_read_as_the_model_it_makes(tmp_path):
    base = {"q.weight": torch.randn(4, 4), "norm.weight": torch.ones(4)}
    save_file(base, tmp_path / "base.safetensors")
    folder = tmp_path / "cars"
    folder.mkdir()
    up, down = torch.randn(4, 2), torch.randn(2, 4)
    save_file(
        {"base_model.model.q.lora_A.weight": down, "base_model.model.q.lora_B.weight": up}, folder / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"], "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    for source in (folder, folder / "adapter_model.safetensors"):
        vector = TaskVector(tmp_path / "base.safetensors", source)
        assert torch.allclose(vector["q.weight"], up @ down, atol=1e-6) and not vector["norm.weight"].any()
    save_file(base, folder / "model.safetensors")
    with pytest.raises(UserError, match="holds an adapter and a whole model; give"):
        TaskVector(tmp_path / "base.safetensors", folder)
    assert not any(leaf.any() for leaf in TaskVector(tmp_path / "base.safetensors", folder / "model.safetensors").values())
    with pytest.raises(UserError, match="holds the factors of an adapter"):
        TaskVector(folder / "adapter_model.safetensors", base)
