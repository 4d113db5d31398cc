"""SVC: what it gives where that is known, and that the coefficient is the merged vector's own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from src.merging.engine.matrices import matrix_names
from src.merging.method import Method
from tests.conftest import merge_inputs, tiny_models


def build(*options: str) -> Method:
    return build_method(compose_config([*options, "method.apply_svc=True"]))


def of_matrices(**by_task: Tensor) -> tuple[dict, dict]:
    """Models with one matrix each, and a bias that is no matrix."""
    zero = torch.zeros_like(next(iter(by_task.values())))
    bias = torch.zeros(3)
    return {"blocks.0.w": zero, "bias": bias}, {task: {"blocks.0.w": leaf, "bias": bias + 1} for task, leaf in by_task.items()}


def reference(merged: Tensor, matrices: list[Tensor], alpha: float) -> Tensor:
    """SVC as its definition has it, one direction after another, in float64."""
    left, values, right = torch.linalg.svd(merged.double(), full_matrices=False)
    total = torch.zeros_like(merged, dtype=torch.float64)
    for u, sigma, v in zip(left.T, values, right):
        shares = []
        for matrix in matrices:
            own = u @ matrix.double()
            shares.append(max(alpha, ((u @ merged.double()) @ own / (own @ own)).item() if own.any() else 0.0))
        total += len(matrices) / sum(shares) * sigma * u.outer(v)
    return total


@pytest.mark.parametrize("coefficient", [0.3, 1.0, -0.5])
@pytest.mark.parametrize("method", ["sum", "ties", "TSVM", "regmean"])
def test_each_direction_is_divided_by_the_mean_share_of_the_tasks(method, coefficient):
    inputs = merge_inputs(tiny_models(tasks=3))
    options = [f"method={method}", *["method.off_diagonal=1"] * (method == "regmean")]
    merged = build_method(compose_config(options))(inputs)(coefficient)["task0"]
    calibrated = build(*options, "method.svc_alpha=0.2")(inputs)(coefficient)["task0"]
    names = matrix_names(inputs, "weights")
    for key in inputs.outline:
        if key in names and inputs.changed(key):
            expected = reference(merged[key], [vector[key] for vector in inputs.vectors.values()], 0.2)
            assert (calibrated[key] - expected).norm() < 1e-4 * expected.norm(), key
        else:
            assert torch.equal(calibrated[key], merged[key]), key


def test_the_least_share_is_one_over_the_tasks_and_of_tsvm_one():
    inputs = merge_inputs(tiny_models(tasks=3))
    for method, alpha in (("sum", 1 / 3), ("TSVM", 1.0)):
        usual, named = (build(f"method={method}", *more)(inputs)(1.0)["task0"] for more in ([], [f"method.svc_alpha={alpha}"]))
        assert (usual - named).norm() == 0


@pytest.mark.parametrize("tasks", [1, 4])
def test_tasks_that_agree_come_out_as_they_are(tasks):
    matrix = torch.randn(6, 9)
    models = of_matrices(**{f"t{number}": matrix for number in range(tasks)})
    vector = build("method=sum")(merge_inputs(models))(1.0)["t0"]
    torch.testing.assert_close(vector["blocks.0.w"], matrix)
    assert vector["bias"].tolist() == [tasks] * 3  # no matrix: as it is merged


def test_a_task_that_did_not_move_counts_the_least_share_and_no_change_stays_none():
    matrix = torch.randn(6, 9)
    models = of_matrices(moved=matrix, still=torch.zeros(6, 9))
    vector = build("method=sum", "method.svc_alpha=0.5")(merge_inputs(models))(1.0)["moved"]
    torch.testing.assert_close(vector["blocks.0.w"], 2 / 1.5 * matrix)
    cancelled = of_matrices(one=matrix, other=-matrix)
    assert not build("method=sum")(merge_inputs(cancelled))(1.0)["one"]["blocks.0.w"].any()


def test_without_a_least_share_the_coefficient_does_not_matter():
    inputs = merge_inputs(tiny_models(tasks=1))
    small, large = (build("method=sum", "method.svc_alpha=1e-9")(inputs)(coefficient)["task0"] for coefficient in (0.2, 3.0))
    for key in matrix_names(inputs, "weights"):
        torch.testing.assert_close(small[key], large[key], rtol=1e-4, atol=1e-5)


def test_directions_of_equal_singular_values_are_those_of_the_sum_they_come_from():
    """Of Iso-C's result alone they would be arbitrary: noise in the last digit would move them."""
    pretrained, finetuned = tiny_models(tasks=3)
    noisy = {task: {key: leaf + 1e-7 * torch.randn_like(leaf) if leaf.is_floating_point() else leaf for key, leaf in model.items()}
             for task, model in finetuned.items()}  # fmt: skip
    method = build("method=iso_c")
    first, second = (method(merge_inputs((pretrained, models)))(1.0)["task0"] for models in (finetuned, noisy))
    key = "blocks.1.w"
    assert (first[key] - second[key]).norm() < 1e-4 * first[key].norm()


@pytest.mark.parametrize("options", [
    ["method=iso_c", "method.apply_lines=True", "method.step_order=[lines,svc]"],
    ["method=dare", "method@method.base=iso_cts"],
    ["method=subspace_boosting"],
])  # fmt: skip
def test_directions_that_are_not_known_any_more_are_not_calibrated(options):
    with pytest.raises(UserError, match="SVC calibrates directions"):
        build(*options)


def test_models_without_matrices_are_not_calibrated():
    models = {"bias": torch.zeros(3)}, {"a": {"bias": torch.ones(3)}}
    with pytest.raises(UserError, match="SVC calibrates matrices"):
        build("method=sum")(
            merge_inputs(({"blocks.0.b": torch.zeros(1), **models[0]}, {"a": {"blocks.0.b": torch.zeros(1), **models[1]["a"]}}))
        )(1.0)["a"]["bias"]


def test_packed_attention_is_calibrated_as_the_method_cuts_it():
    pretrained, finetuned = tiny_models(tasks=2)
    key = "blocks.0.attn.in_proj_weight"
    pretrained[key] = torch.zeros(12, 4)
    for model in finetuned.values():
        model[key] = torch.randn(12, 4)
    inputs = merge_inputs((pretrained, finetuned))
    whole, apart = (build("method=TSVM", f"method.attention={how}")(inputs)(1.0)["task0"][key] for how in ("packed", "split"))
    matrices = [vector[key].chunk(3) for vector in inputs.vectors.values()]
    merged = build_method(compose_config(["method=TSVM", "method.attention=split"]))(inputs)(1.0)["task0"][key].chunk(3)
    expected = torch.cat([reference(part, list(own), 1.0) for part, own in zip(merged, zip(*matrices))])
    assert (apart - expected).norm() < 1e-5 * expected.norm() < 1e-3 * (whole - expected).norm()


@pytest.mark.parametrize("order", ["svc,lines", "lines,svc"])
def test_lines_and_svc_follow_one_another_as_they_are_told(order):
    inputs = replace(merge_inputs(tiny_models(tasks=3)), keep=True)
    both = build("method=sum", "method.apply_lines=True", f"method.step_order=[{order}]")
    first, second = order.split(",")
    assert [both.description["method"], both.description["base"]["method"]] == [
        {"svc": "SVC", "lines": "LiNeS"}[each] for each in (second, first)
    ]
    vector, profile = both(inputs)(0.5)["task0"], both(inputs).depth_profile({"task0": 0.5}, inputs)
    assert bool(profile) == (second == "lines")  # after SVC nothing is scaled by depth alone
    lines = build_method(compose_config(["method=sum", "method.apply_lines=True"]))
    if first == "lines":
        merged = lines(inputs)(0.5)["task0"]
        key = "blocks.1.w"
        expected = reference(merged[key], [own[key] for own in inputs.vectors.values()], 1 / 3)
        assert (vector[key] - expected).norm() < 1e-4 * expected.norm()
    else:
        svc = build("method=sum")(inputs)(1.0)["task0"]
        scales = [(vector[key].norm() / svc[key].norm()).item() for key in ("blocks.0.w", "blocks.1.w")]
        assert scales[1] - scales[0] == pytest.approx(0.5 / 2, rel=1e-3)  # beta over the depths of three blocks


def test_wrong_options_are_sentences():
    for option in ("method.svc_alpha=0", "method.svc_alpha=-1", "method.step_order=[svc]", "method.step_order=lines"):
        with pytest.raises(UserError, match=option.partition("=")[0]):
            build("method=sum", option)
    with pytest.raises(UserError, match="apply_svc"):
        build("method=TSVC")
