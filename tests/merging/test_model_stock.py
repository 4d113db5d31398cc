import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from src.merging.model_stock import interpolation_ratio
from tests.conftest import merge_inputs, tiny_models


def ratio(*vectors: list[float]) -> float:
    stack = torch.tensor(vectors, dtype=torch.float64)
    return interpolation_ratio(stack @ stack.T)


def test_the_ratio_is_one_for_equal_directions_and_zero_for_orthogonal_ones():
    assert ratio([1.0, 2.0], [2.0, 4.0], [0.5, 1.0]) == pytest.approx(1)
    assert ratio([1.0, 0.0], [0.0, 2.0]) == 0
    assert ratio([1.0, 0.0], [1.0, 1.0]) == pytest.approx(2 * 0.5**0.5 / (1 + 0.5**0.5))


def test_the_ratio_is_negative_for_wide_angles_and_zero_where_directions_cancel():
    assert ratio([1.0, 0.0], [-1.0, 1.0]) == pytest.approx(-2 * 0.5**0.5 / (1 - 0.5**0.5))
    assert ratio([1.0, 0.0], [-2.0, 0.0]) == 0
    assert ratio([0.0, 0.0], [1.0, 0.0]) == 0
    assert ratio([1e-30, 0.0], [1e-30, 0.0]) == pytest.approx(1)  # small tensors, too


def test_each_parameter_has_its_own_ratio():
    pretrained, finetuned = tiny_models(tasks=2)
    finetuned["task1"]["blocks.0.w"] = finetuned["task0"]["blocks.0.w"]
    method = build_method(compose_config(["method=model_stock"]))
    vector = method(merge_inputs((pretrained, finetuned)))(1.0)["task0"]
    move = finetuned["task0"]["blocks.0.w"] - pretrained["blocks.0.w"]
    torch.testing.assert_close(vector["blocks.0.w"], move)
    assert (vector["blocks.1.w"].norm() < move.norm() / 2).item()


def test_one_model_is_compared_with_none():
    method = build_method(compose_config(["method=model_stock"]))
    with pytest.raises(UserError, match="task0 alone"):
        method.check_tasks(["task0"])
