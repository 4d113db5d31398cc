import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from src.merging.engine import inputs as module
from src.merging.engine.edits import Trim
from src.merging.engine.trimming import TENSOR, check_percentage, magnitude_thresholds, thresholds_by_parameter, trimmed
from src.merging.method import Method
from tests.conftest import merge_inputs, tiny_models


def reference(models, k) -> list[float]:
    """The definition: the `d - int(d * k / 100)`-th smallest magnitude of the flattened vector."""
    pretrained, finetuned = models
    thresholds = []
    for model in finetuned.values():
        keys = [key for key in pretrained if pretrained[key].is_floating_point()]
        dtype = torch.float64 if pretrained[keys[0]].dtype == torch.float64 else torch.float32
        flat = torch.cat([(model[key].to(dtype) - pretrained[key].to(dtype)).abs().flatten() for key in keys])
        rank = len(flat) - int(len(flat) * (k if k < 1 else k / 100))
        thresholds.append(flat.kthvalue(rank).values.item() if rank else 0.0)
    return thresholds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [0.2, 1, 5, 20, 33.3, 77, 99])
def test_thresholds_are_exact_to_the_bit(dtype, k):
    pretrained, finetuned = tiny_models(seed=int(k * 10))
    pretrained, *tuned = ({key: leaf.to(dtype) if leaf.is_floating_point() else leaf for key, leaf in model.items()}
                          for model in (pretrained, *finetuned.values()))  # fmt: skip
    models = pretrained, dict(zip(finetuned, tuned))
    assert magnitude_thresholds(merge_inputs(models), k).tolist() == reference(models, k)


def test_many_equal_magnitudes_and_zeros():
    pretrained, finetuned = tiny_models()
    for number, model in enumerate(finetuned.values()):
        for key in ("embed.weight", "blocks.0.w", "blocks.1.w"):
            model[key] = pretrained[key] + (torch.arange(pretrained[key].numel()).reshape(pretrained[key].shape) % 3 - 1) * number
    for k in (1, 10, 50, 90):
        assert magnitude_thresholds(merge_inputs((pretrained, finetuned)), k).tolist() == reference((pretrained, finetuned), k)


def test_a_threshold_among_zeros_keeps_all(inputs):
    trimmed_inputs = trimmed(inputs, 99.9)
    assert trimmed(inputs, 100) is inputs
    assert trimmed_inputs.edits[-1].thresholds.tolist() == [0.0, 0.0, 0.0]  # more entries are zero than are dropped


def test_thresholds_are_computed_once(inputs):
    assert trimmed(inputs, 20).edits == trimmed(inputs, 20).edits


@pytest.mark.parametrize("k", [0, -1, 100.5, "20", None, True])
def test_impossible_percentages_are_refused_by_name(k):
    with pytest.raises(ValueError, match=r"method\.k of ties"):
        check_percentage(k, "ties")


def test_thresholds_between_dtypes_keep_what_is_as_large():
    """A threshold of float64 falls between two values of float32, or on one."""
    pretrained = {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros(4)}
    for value, kept in ((1.00000001, [0.0, 2.0]), (0.99999999, [1.0, 2.0]), (1.0, [1.0, 2.0])):
        tuned = {"t": {"a": torch.tensor([value], dtype=torch.float64), "b": torch.tensor([1.0, 2.0, 0.5, 0.1])}}
        inputs = merge_inputs((pretrained | {"blocks.0.w": torch.zeros(1)}, {"t": tuned["t"] | {"blocks.0.w": torch.zeros(1)}}))
        inputs = inputs.edited(Trim(torch.tensor([value], dtype=torch.float64)))
        (vector,) = inputs.slicewise(lambda stack: stack[0])["b"][None]
        assert vector[:2].tolist() == kept and vector[2:].tolist() == [0.0, 0.0]


def test_small_parameters_are_counted_together_and_named_apart():
    models = {task: {f"h.{number}.w": torch.randn(7) for number in range(40)} | {"large": torch.randn(70_000)} for task in "ab"}
    models["b"]["h.7.w"] = models["b"]["h.7.w"].double()
    base = {key: torch.zeros_like(leaf) for key, leaf in models["a"].items()}
    base["h.11.w"], models["a"]["h.11.w"], models["b"]["h.11.w"] = (torch.zeros(3, dtype=torch.float64) for _ in range(3))
    models["a"]["h.11.w"][1] = 1.0
    inputs = merge_inputs((base, models))
    stacks = list(inputs.scan_together(lambda stack: (stack.dtype, stack.shape[1])))
    assert sum(count for _, count in stacks) == 40 * 7 - 7 + 3 + 70_000 and len(stacks) < 10
    thresholds = magnitude_thresholds(inputs, 20)
    for row, task in enumerate("ab"):
        magnitudes = torch.cat([(models[task][key].double() - base[key].double()).abs() for key in base]).sort().values
        size = len(magnitudes)
        assert thresholds[row] == magnitudes[size - int(size * 0.2) - 1]
    models["b"]["h.20.w"][3] = torch.nan
    with pytest.raises(UserError, match=r"h\.20\.w holds NaN or infinite values in b"):
        magnitude_thresholds(merge_inputs((base, models)), 20)


def build(*options: str) -> Method:
    return build_method(compose_config(list(options)))


@pytest.mark.parametrize("slice_bytes", [32, 2**18])
def test_the_threshold_of_a_parameter_is_its_own(slice_bytes, monkeypatch):
    models = tiny_models()
    pretrained, finetuned = models
    monkeypatch.setitem(module.SLICE_BYTES, "cpu", slice_bytes)
    found = thresholds_by_parameter(merge_inputs(models), 30, TENSOR)
    assert "frozen.weight" not in found
    for key, thresholds in found.items():
        entries = torch.stack([(model[key] - pretrained[key]).abs().flatten() for model in finetuned.values()]).sort(1).values
        size = entries.shape[1]
        assert thresholds.tolist() == entries[:, size - int(size * 0.3) - 1].tolist()


@pytest.mark.parametrize("name", ["sum", "ties", "consensus", "mag_masking"])
def test_of_one_parameter_both_scopes_are_one(name):
    pretrained, finetuned = tiny_models()
    keys = ("blocks.1.w",)
    models = (
        {key: pretrained[key] for key in keys},
        {task: {key: model[key] for key in keys} for task, model in finetuned.items()},
    )
    options = [f"method={name}", "method.k=30", *["method.mask_lambda=0.4"] * (name == "consensus")]
    one, two = (build(*options, f"method.scope={scope}")(merge_inputs(models))(1.0)["task1"] for scope in ("vector", "tensor"))
    assert torch.equal(one["blocks.1.w"], two["blocks.1.w"]) and one["blocks.1.w"].any()


@pytest.mark.parametrize("name", ["sum", "consensus", "mag_masking"])
def test_small_parameters_keep_their_share_of_entries_too(name):
    """Over the whole vector, a parameter that moved little keeps none."""
    pretrained, finetuned = tiny_models(tasks=1)
    for model in finetuned.values():
        model["head.bias"] = pretrained["head.bias"] + 1e-4 * torch.randn(6)
    options = [f"method={name}", "method.k=50", *["method.mask_lambda=0.0", "method.prun_thre_k=1"] * (name == "consensus")]
    kept = [build(*options, f"method.scope={scope}")(merge_inputs((pretrained, finetuned)))(1.0)["task0"]["head.bias"]
            for scope in ("vector", "tensor")]  # fmt: skip
    assert [each.count_nonzero().item() for each in kept] == [0, 4]  # the threshold itself is kept


def test_a_scope_that_earlier_versions_had_is_not_described():
    assert build("method=sum").description == {"method": "Sum", "k": 100}
    assert build("method=sum", "method.scope=tensor").description == {"method": "Sum", "k": 100, "scope": "tensor"}
    with pytest.raises(UserError, match=r"method\.scope is vector or tensor; got row"):
        build("method=ties", "method.scope=row")
