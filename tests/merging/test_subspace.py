"""Adapters merged in the space of their factors: against released code, against whole matrices, and by hand."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from src.merging.engine.bases import Basis, FactorSpace
from src.merging.engine.inputs import MergeInputs
from src.merging.method import Method
from src.task_vectors import TaskVector
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.adapters import SHAPES, adapter_inputs, pretrained_model, random_factors, save_adapter
from tests.merging.test_methods import METHODS, NEEDED

GOLDEN = Path(__file__).parent.parent / "files" / "golden_adapters"
FOLDERS = sorted(GOLDEN.glob("task_*"))
CASES = {
    "core_ties_k20": "method=ties method.scope=tensor method.space=core",
    "core_sum": "method=sum method.space=core",
    "core_iso_c": "method=iso_c",
    "core_tsvm": "method=TSVM",
    "knots_ties_k20": "method=ties method.space=knots",
    "knots_ties_k100": "method=ties method.k=100 method.space=knots",
}
WEIGHTS = ["blocks.0.w.weight", "blocks.1.w.weight"]


def build(*options: str) -> Method:
    return build_method(compose_config(list(options)))


def merged(inputs: MergeInputs, *options: str, coefficient: float = 1.0) -> TaskVector:
    return next(iter(build(*options)(inputs)(coefficient).values()))


def distance(vector: TaskVector, expected: dict[str, torch.Tensor]) -> float:
    error = sum((vector[key] - leaf).double().square().sum() for key, leaf in expected.items())
    return float((error / sum(leaf.double().square().sum() for leaf in expected.values())) ** 0.5)


@pytest.fixture
def adapters(tmp_path) -> MergeInputs:
    """Two adapters, of other ranks and scales: one entry changed by both, one by one of them, and a bias by the other."""
    first = random_factors(1, block_0=2)
    second = random_factors(2, block_0=1, block_1=1) | {"blocks.0.w.bias": torch.ones(8)}
    folders = [save_adapter(tmp_path / "a", first, r=2, lora_alpha=6), save_adapter(tmp_path / "b", second)]
    return adapter_inputs(pretrained_model(), folders)


@pytest.mark.parametrize("name", CASES)
def test_a_method_gives_what_the_papers_code_gives(name):
    inputs = adapter_inputs(open_checkpoint(GOLDEN / "pretrained.safetensors"), FOLDERS)
    assert distance(merged(inputs, *CASES[name].split()), load_file(GOLDEN / f"{name}.safetensors")) <= 1e-6


@pytest.mark.parametrize("space", ["core", "full"])
@pytest.mark.parametrize("method", ["actmat", "aswudi"])
def test_covariance_methods_give_in_core_space_what_they_give_of_whole_matrices(method, space):
    inputs = adapter_inputs(open_checkpoint(GOLDEN / "pretrained.safetensors"), FOLDERS)
    vector = merged(inputs, f"method={method}", f"method.space={space}")
    assert distance(vector, load_file(GOLDEN / f"full_{method}.safetensors")) <= 1e-5


@pytest.mark.parametrize("space", ["core", "knots"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_merges_in_a_space_or_says_why_not(name, space, adapters):
    try:
        method = build(f"method={name}", f"method.space={space}", *NEEDED.get(name, []))
    except UserError as error:
        assert f"method.space={space}: this method " in str(error)
        return
    for vector in method(adapters)(0.3).values():
        assert list(vector) == list(SHAPES)
        for key, leaf in vector.items():
            assert leaf.shape == SHAPES[key] and leaf.dtype == torch.float32 and leaf.isfinite().all()
            factors = vector.factors(key)
            assert (factors is not None) == (key in WEIGHTS)
            if factors:
                torch.testing.assert_close(factors.product, leaf)
                assert factors.up.shape[1] <= {WEIGHTS[0]: 3, WEIGHTS[1]: 1}[key]
        assert not vector["embed.weight"].any()


@pytest.mark.parametrize("space", ["core", "knots"])
@pytest.mark.parametrize("method", ["sum", "average"])
def test_what_is_linear_is_the_same_in_a_space_and_entries_of_other_kinds_are_merged_whole(method, space, adapters):
    expected = merged(adapters, f"method={method}", "method.space=full", coefficient=0.7)
    got = merged(adapters, f"method={method}", f"method.space={space}", coefficient=0.7)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-6)
    assert got["blocks.0.w.bias"].any() and not got["embed.weight"].any()


def test_lines_scales_by_depth_in_a_space(adapters):
    options = ("method=sum", "method.apply_lines=True")
    family, whole = (build(*options, f"method.space={space}")(adapters) for space in ("core", "full"))
    coefficients = dict.fromkeys(adapters.tasks, 0.5)
    first, last = (dict(family.depth_profile(coefficients, adapters))[block] for block in ("0", "1"))
    plain, scaled = merged(adapters, "method=sum"), family.at(coefficients)["a"]
    assert last - first == pytest.approx(0.5) and family.scale and whole.scale
    torch.testing.assert_close(scaled[WEIGHTS[0]], first * plain[WEIGHTS[0]])
    torch.testing.assert_close(scaled[WEIGHTS[1]], last * plain[WEIGHTS[1]])


def test_iso_c_in_core_space_by_hand(tmp_path):
    """Orthogonal products of norms 3 and 1: both singular values become 2, and no other direction gets any."""
    for name, number, size in (("a", 0, 3.0), ("b", 1, 1.0)):
        up, down = torch.zeros(8, 1), torch.zeros(1, 6)
        up[number], down[0, number] = size, 1
        save_adapter(tmp_path / name, {"blocks.0.w.lora_A.weight": down, "blocks.0.w.lora_B.weight": up})
    vector = merged(adapter_inputs(pretrained_model(), [tmp_path / "a", tmp_path / "b"]), "method=iso_c")
    expected = torch.zeros(8, 6)
    expected[0, 0] = expected[1, 1] = 2
    torch.testing.assert_close(vector["blocks.0.w.weight"], expected)


@pytest.mark.parametrize("make", [FactorSpace.core, FactorSpace.knots])
def test_directions_that_tasks_share_count_once(make, adapters):
    pair = adapters.adapters["a"].factors[WEIGHTS[0]]
    space = make({"one": pair, "other": pair}, torch.device("cpu"))
    assert space.shape[0] == 2
    torch.testing.assert_close(space.coordinates("one"), space.coordinates("other"))
    torch.testing.assert_close(space.lifted(space.coordinates("one"), torch.float32).product, pair.product)
    assert not space.coordinates("a third").any()


def test_a_basis_is_orthonormal_and_holds_its_columns():
    columns = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1e3, 1, 1, 1e-3])
    basis = Basis.of(columns)
    vectors = columns @ basis.mixing
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(vectors @ basis.coordinates, columns)


def test_adapters_that_change_nothing_make_a_vector_of_zeros(tmp_path):
    for name in ("a", "b"):
        entries = random_factors(1, block_0=2)
        entries["blocks.0.w.lora_B.weight"].zero_()
        save_adapter(tmp_path / name, entries | {"blocks.0.w.bias": torch.ones(8)}, r=2)
    vector = merged(adapter_inputs(pretrained_model(), [tmp_path / "a", tmp_path / "b"]), "method=TSVM")
    assert not vector[WEIGHTS[0]].any() and vector["blocks.0.w.bias"].any()


def test_core_space_is_the_default_of_methods_that_decompose_adapters_and_says_so(adapters):
    method = build("method=iso_c")
    note = method.notes(adapters)[-1]
    assert "core space" in note and "method.space=full" in note
    core, own = merged(adapters, "method=iso_c", "method.space=core"), method(adapters)(1.0)["a"]
    assert all(torch.equal(own[key], core[key]) for key in core)
    assert not merged(adapters, "method=iso_c", "method.space=full").factors(WEIGHTS[0])
    whole = merge_inputs(tiny_models())
    for name, inputs in (("iso_c", whole), ("sum", adapters)):
        assert not any("core space" in sentence for sentence in build(f"method={name}").notes(inputs))


def test_attention_that_is_split_is_merged_whole_where_the_adapters_pack_it(tmp_path):
    key = "blocks.0.attn.in_proj_weight"
    pretrained = {**pretrained_model(), key: torch.randn(12, 4)}
    for name in ("a", "b"):
        factors = {"blocks.0.attn.lora_A.weight": torch.randn(2, 4), "blocks.0.attn.lora_B.weight": torch.randn(12, 2)}
        save_adapter(tmp_path / name, factors, r=2)
    inputs = adapter_inputs(pretrained, [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match=rf"method\.space=core has no queries, keys and values apart in {key}"):
        merged(inputs, "method=TSVM", "method.attention=split", "method.space=core")
    split = merged(inputs, "method=TSVM", "method.attention=split")
    assert torch.equal(split[key], merged(inputs, "method=TSVM", "method.attention=split", "method.space=full")[key])
    assert not torch.allclose(split[key], merged(inputs, "method=TSVM", "method.space=core")[key], rtol=0.1)


def test_what_is_no_adapter_has_no_core_space(adapters):
    with pytest.raises(UserError, match=r"method\.space=core is for adapters of peft, and task0 is a whole model"):
        build("method=sum", "method.space=core")(merge_inputs(tiny_models()))
    with pytest.raises(UserError, match=r"method\.space is full, core, knots or null; got cube"):
        build("method=sum", "method.space=cube")


def test_factors_that_are_not_finite_are_named(tmp_path):
    entries = random_factors(1, block_0=2)
    entries["blocks.0.w.lora_A.weight"][0, 0] = torch.nan
    folders = [save_adapter(tmp_path / "a", entries, r=2), save_adapter(tmp_path / "b", random_factors(2, block_0=1))]
    with pytest.raises(UserError, match=r"blocks\.0\.w\.weight has NaN or infinite factors in a;"):
        build("method=TSVM")(adapter_inputs(pretrained_model(), folders))


def test_kept_or_not_the_answer_is_the_same(adapters, tmp_path):
    kept = adapter_inputs(adapters.pretrained, [Path(model.path) for model in adapters.finetuned.values()], keep=True)
    answers = map(partial(merged, coefficient=0.7), (adapters, kept), ("method=ties",) * 2, ("method.space=core",) * 2)
    first, second = answers
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_entry_that_one_adapter_replaces_is_merged_whole(tmp_path):
    """Were its factors in the other adapter merged, the replacement would be lost."""
    replaced = {WEIGHTS[0]: torch.ones(8, 6)} | random_factors(2, block_1=1)
    folders = [save_adapter(tmp_path / "a", random_factors(1, block_0=2), r=2), save_adapter(tmp_path / "b", replaced)]
    inputs = adapter_inputs(pretrained_model(), folders)
    whole, got = (merged(inputs, "method=sum", f"method.space={space}") for space in ("full", "core"))
    torch.testing.assert_close(got[WEIGHTS[0]], whole[WEIGHTS[0]])
    assert got.factors(WEIGHTS[0]) is None and got.factors(WEIGHTS[1])
