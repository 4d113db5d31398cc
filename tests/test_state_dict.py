import pytest
import torch

from src import state_dict
from src.state_dict import digest, is_finite, model_differences, same_values, weight_names, working_dtype


def test_differences_name_keys_shapes_and_kinds():
    ours = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}
    theirs = {"b": torch.ones(3), "c": torch.ones(2, dtype=torch.int64), "d": torch.ones(1)}
    found = " ".join(model_differences("ours", ours, "theirs", theirs))
    assert "theirs lacks a, which ours has" in found and "ours lacks d, which theirs has" in found
    assert "b has shape (2,) in ours and (3,) in theirs" in found and "c is torch.float32 in ours" in found


def test_digest_depends_on_names_values_dtype_and_shape_but_not_on_order():
    tree = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    same = digest(tree.items())
    assert digest(reversed(tree.items())) == same
    assert digest({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}.items()) != same
    assert digest({"a": torch.arange(6.0), "c": torch.zeros(2)}.items()) != same
    assert digest({"a": torch.arange(6.0), "b": torch.zeros(2).half()}.items()) != same
    assert digest({"a": torch.arange(6.0), "b": torch.tensor([0.0, 1e-30])}.items()) != same


def test_arithmetic_is_float32_but_for_float64():
    assert working_dtype(torch.bfloat16) == working_dtype(torch.float32) == torch.float32
    assert working_dtype(torch.float64) == torch.float64
    assert weight_names({"n": torch.arange(2), "w": torch.ones(1).half(), "c": torch.ones(1).cfloat()}) == ["w", "c"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_values_are_the_same_whatever_their_dtype(dtype):
    values = torch.tensor([1.0, -2.0, 0.5])
    assert same_values(values, values.to(dtype)) and same_values(values.to(dtype), values)
    assert not same_values(values, (values + 1).to(dtype))


def test_a_constant_that_is_infinite_in_half_precision_alone_is_the_same():
    mask = torch.tensor([0.0, -1e9])
    assert same_values(mask, mask.half()) and same_values(torch.tensor([float("-inf")]), torch.tensor([float("-inf")]).bfloat16())
    assert not same_values(mask, torch.tensor([1.0, -1e9]).half()) and not same_values(
        torch.ones(1), torch.tensor([float("nan")]).half()
    )


def test_every_width_is_checked_for_nan():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64):
        assert is_finite(torch.ones(3).to(dtype)) and not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))


def test_a_difference_is_found_wherever_it_is(monkeypatch):
    monkeypatch.setattr(state_dict, "CHUNK", 4)
    values = torch.arange(10.0)
    other = values.clone()
    other[9] += 1
    assert same_values(values, values.half()) and not same_values(values, other.half())
    assert not same_values(values, values.half().reshape(2, 5))
