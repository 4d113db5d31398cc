import weakref

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from src import elementwise
from src.elementwise import add_vector, is_zeros_view, zeros_view, zip_with
from src.errors import UserError
from src.state_dict import Lazy, outline
from src.task_vectors import TaskVector


class Storages(TorchDispatchMode):
    """Notes the memory of every operation's result: its address and how many bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, int]] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        if isinstance(result, Tensor):
            self.seen.add(memory_of(result))
        return result


def memory_of(leaf: Tensor) -> tuple[int, int]:
    return leaf.untyped_storage().data_ptr(), leaf.untyped_storage().nbytes()


def tree(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


def test_zip_with_computes_nothing_until_asked():
    asked = []
    ones = {"a": torch.ones(2), "b": torch.ones(3)}
    lazy = Lazy(ones, lambda key: asked.append(key) or ones[key])
    total = zip_with(lambda x, y: x + y, lazy, ones)
    assert not asked and outline(total)["b"].shape == (3,) and not asked
    assert total["a"].tolist() == [2, 2] and asked == ["a"]


def test_zip_with_outlines_the_dtype_of_the_result():
    ones = {"a": torch.ones(2)}
    mask = zip_with(lambda x, y: x > y, ones, ones)
    assert outline(mask)["a"].dtype == torch.bool


def test_zip_with_refuses_other_keys_and_shapes():
    with pytest.raises(ValueError, match="lacks b"):
        zip_with(torch.add, {"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="shape"):
        zip_with(torch.add, {"a": torch.ones(2)}, {"a": torch.ones(3)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_expression_over_expressions_is_that_of_its_entries_bit_by_bit(monkeypatch, dtype):
    monkeypatch.setattr(elementwise, "CHUNK", 7)
    a, b, base = (tree(seed, matrix=(5, 6), scalar=(), vector=(3,)) for seed in range(3))
    a["transposed"], b["transposed"], base["transposed"] = (torch.randn(4, 5).T for _ in range(3))
    a["same"], b["same"], base["same"] = zeros_view(torch.ones(9), torch.device("cpu")), torch.randn(9), torch.ones(9)
    base = {key: leaf.to(dtype) for key, leaf in base.items()}
    vector = 0.3 * (TaskVector.of(a) + TaskVector.of(b)) - TaskVector.of(b)
    model = add_vector(base, vector)
    for key in base:
        by_hand = 0.3 * (a[key] + b[key]) - b[key]
        assert torch.equal(vector[key], by_hand) and vector[key].dtype == vector.outline[key].dtype
        assert torch.equal(model[key], (base[key].to((base[key] + by_hand).dtype) + by_hand).to(dtype))
        assert model[key].shape == base[key].shape and model[key].dtype == dtype


def test_what_lies_between_takes_the_memory_of_a_chunk(monkeypatch):
    monkeypatch.setattr(elementwise, "CHUNK", 100)
    a, b, base = (tree(seed, matrix=(50, 60)) for seed in range(3))
    model = add_vector(base, 0.3 * (TaskVector.of(a) + TaskVector.of(b)) - TaskVector.of(b))
    with Storages() as storages:
        merged = model["matrix"]
    large = {memory for memory in storages.seen if memory[1] > 100 * merged.element_size()}
    assert large - {memory_of(leaf["matrix"]) for leaf in (a, b, base)} == {memory_of(merged)}


def test_a_sum_of_many_vectors_over_files_takes_the_memory_of_a_chunk(monkeypatch, tmp_path):
    monkeypatch.setattr(elementwise, "CHUNK", 100)
    base, *models = (tree(seed, matrix=(50, 60)) for seed in range(6))
    for name, model in (("base", base), *enumerate(models)):
        save_file(model, tmp_path / f"{name}.safetensors")
    vectors = [TaskVector(tmp_path / "base.safetensors", tmp_path / f"{number}.safetensors") for number in range(5)]
    total = 0.3 * sum(vectors[1:], vectors[0])
    with Storages() as storages:
        entry = total["matrix"]
    mapped = {memory_of(leaf) for leaf in total._entries.operands("matrix")[1]}
    large = {memory for memory in storages.seen if memory[1] > 100 * entry.element_size()}
    assert len(mapped) == 2 * 5 and large - mapped == {memory_of(entry)}
    differences = [model["matrix"] - base["matrix"] for model in models]
    assert torch.equal(entry, 0.3 * sum(differences[1:], differences[0]))


def test_a_vector_is_gone_when_nobody_holds_it():
    vector = zip_with(torch.add, {"w": torch.ones(3)}, {"w": torch.ones(3)})
    gone = weakref.ref(vector)
    del vector
    assert gone() is None


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_number_that_is_a_tensor_changes_dtypes_as_it_does_in_torch(monkeypatch, shape, dtype):
    monkeypatch.setattr(elementwise, "CHUNK", 2)
    leaf, number = torch.ones(shape, dtype=dtype), torch.tensor(0.5, dtype=torch.float64)
    scaled = number * TaskVector.of({"w": leaf, "still": zeros_view(leaf, leaf.device)})
    for key in ("w", "still"):
        assert scaled[key].dtype == scaled.outline[key].dtype
    assert leaf.ndim == 0 or scaled["w"].dtype == dtype


def test_gradients_reach_a_coefficient(monkeypatch):
    monkeypatch.setattr(elementwise, "CHUNK", 4)
    coefficient = torch.tensor(0.5, requires_grad=True)
    (coefficient * TaskVector.of({"w": torch.arange(10.0)}))["w"].sum().backward()
    assert coefficient.grad == 45


def test_constants_on_another_device_follow_the_others():
    vector = TaskVector.of({"w": torch.ones(3, device="meta")}) + TaskVector.of(
        {"w": zeros_view(torch.ones(3), torch.device("cpu"))}
    )
    assert vector["w"].device.type == "meta"


def test_constants_stay_constants_and_take_no_memory():
    like, cpu = torch.ones(4, 5), torch.device("cpu")
    zeros = {"w": zeros_view(like, cpu)}
    total = zip_with(lambda x, y: 2 * (x - y), zeros, zeros)["w"]
    assert is_zeros_view(total) and total.shape == like.shape and total.untyped_storage().nbytes() == 4
    ones = zip_with(lambda x: x + 1, zeros)["w"]
    assert not is_zeros_view(ones) and torch.equal(ones, like) and ones.untyped_storage().nbytes() == 4
    assert not is_zeros_view(torch.zeros(4, 5))


def test_adding_keeps_what_the_vector_lacks_or_leaves_alone():
    base = tree(0, kept=(3,), absent=(2,), changed=(4,))
    vector = {"kept": zeros_view(base["kept"], torch.device("cpu")), "changed": torch.ones(4)}
    base["logit_scale"], vector["logit_scale"] = torch.tensor(4.6), zeros_view(torch.ones(()), torch.device("cpu"))
    model = add_vector(base, vector, scale=0.3)
    for key in ("kept", "absent", "logit_scale"):
        assert model[key] is base[key]
    assert torch.equal(model["changed"], torch.add(base["changed"], torch.ones(4), alpha=0.3))
    with pytest.raises(UserError, match=r"does not fit.*other"):
        add_vector(base, {"other": torch.ones(1)})


def test_an_overflow_is_refused_by_name_wherever_it_is(monkeypatch):
    monkeypatch.setattr(elementwise, "CHUNK", 4)
    base = {"w": torch.full((10,), 6e4).half()}
    step = torch.zeros(10)
    step[9] = 1e4
    with pytest.raises(UserError, match=r"merged w overflows torch\.float16"):
        add_vector(base, {"w": step})["w"]
    base["w"][8] = float("nan")
    with pytest.raises(UserError, match=r"merged w overflows torch\.float16"):
        add_vector(base, {"w": step})["w"]
    base["w"][9] = float("inf")
    assert add_vector(base, {"w": step})["w"][9] == float("inf")
    step[3] = float("nan")
    with pytest.raises(UserError, match="vector to add has NaN or infinite values in w"):
        add_vector(base, {"w": step})["w"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_saturate_never_in_silence(dtype):
    base = {"w": torch.full((3, 5), 200.0).to(dtype)}
    assert add_vector(base, {"w": torch.full((3, 5), 24.0)})["w"].float().max() <= 224
    with pytest.raises(UserError, match=r"merged w overflows"):
        add_vector(base, {"w": torch.full((3, 5), 1e5)})["w"]
