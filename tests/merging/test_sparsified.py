"""What drops entries of task vectors before they are merged: DARE, Breadcrumbs, DELLA."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from command_line.build import build_method
from command_line.config import compose_config
from src.compact.packing import unpack
from src.errors import UserError
from src.merging.breadcrumbs import Band
from src.merging.dare import RandomDrop
from src.merging.della import RankedDrop
from src.merging.engine import inputs as module
from src.merging.engine.edits import Edit, Span
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.random_bits import bound, random_bits
from src.merging.engine.ranks import ranks_in_rows
from src.merging.method import Method
from src.merging.sparsified import keep
from tests.conftest import merge_inputs, tiny_models

GOLDEN = Path(__file__).parent.parent / "files" / "golden" / "public_t3"
CPU = torch.device("cpu")
NAMES = ("dare", "breadcrumbs", "della")
EDITS = {"dare": RandomDrop(0.4, 0), "breadcrumbs": Band(0.4, 0.2), "della": RankedDrop(0.4, 0.2, 0)}
# Options by which a method keeps each task vector as it is.
WHOLE = {
    "dare": ["method.density=1"],
    "breadcrumbs": ["method.density=1", "method.gamma=0"],
    "della": ["method.density=1", "method.epsilon=0"],
}


def build(*options: str) -> Method:
    return build_method(compose_config(list(options)))


def edited(edit: Edit, values: Tensor, key: str = "w", task: str = "a") -> Tensor:
    """The edited vector of one task with one parameter."""
    stack = values.reshape(1, -1).clone()
    edit(stack, [Span(key, values.shape, 0, slice(0, values.numel()))], [task])
    return stack.view(values.shape)


def bits_of(seed: int = 0, key: str = "w", task: str = "a", size: int = 10**6, start: int = 0) -> Tensor:
    (bits,) = random_bits(seed, [Span(key, torch.Size([size]), start, slice(0, size))], [task], size, CPU)
    return bits


@pytest.mark.parametrize("base", ["sum", "ties"])
@pytest.mark.parametrize("name", NAMES)
def test_of_whole_vectors_the_merge_is_the_bases(name, base, inputs):
    vector = build(f"method={name}", f"method@method.base={base}", *WHOLE[name])(inputs)(0.3)["task0"]
    expected = build(f"method={base}")(inputs)(0.3)["task0"]
    assert all(torch.equal(vector[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_base_trims_what_is_left(name, inputs):
    method = build(f"method={name}", "method@method.base=ties", "method.base.k=50")
    expected = method.base(inputs.edited(method.edit))(1.0)["task0"]
    vector = method(inputs)(1.0)["task0"]
    assert all(torch.equal(vector[key], expected[key]) for key in expected)
    whole = method.base(inputs)(1.0)["task0"]
    assert any(not torch.equal(vector[key], whole[key]) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_lines_measures_the_sum_of_the_edited_vectors(name, inputs):
    lines = build(f"method={name}", "method.apply_lines=True")
    (alpha,) = {scale for depth, scale in lines(inputs).depth_profile({"task0": 0.5}, inputs) if depth == "outside"}
    assert alpha == pytest.approx(1 / len(inputs.tasks), rel=1e-6)  # what is merged is that very sum


@pytest.mark.parametrize("name", NAMES)
def test_one_task_alone_is_edited_too(name, inputs):
    """Its vector is read by itself, where there are no edits."""
    method = build(f"method={name}", "method@method.base=single_task", "method.base.task_index=1")
    vector, whole = method(inputs)(1.0)["task0"], inputs.vectors["task1"]
    expected = inputs.edited(method.edit).slicewise(lambda stack: stack[1])
    assert all(torch.equal(vector[key], expected[key]) for key in whole)
    assert not torch.equal(vector["embed.weight"], whole["embed.weight"])


def test_a_bases_own_form_under_lines_merges_what_is_left(inputs):
    options = ["method=dare", "method@method.base=single_task"]
    vector, scaled = (build(*options, f"method.apply_lines={lines}")(inputs)(1.0)["task0"] for lines in (False, True))
    assert all(torch.equal(vector[key], scaled[key]) for key in vector)  # alpha 1 scales nothing


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_made_of_whole_vectors_and_over_a_sparse_base_it_is_edited_once(name, inputs):
    with pytest.raises(UserError, match="merges by masks"):
        build(f"method={name}", "method@method.base=consensus", "method.base.mask_lambda=0.4")
    all_kept = build("method=consensus", f"method@method.base={name}", "method.mask_lambda=0.4", "method.prun_thre_k=0")
    alone = build(f"method={name}")(inputs)(1.0)["task0"]
    vector = all_kept(inputs)(1.0)["task0"]
    assert all(torch.equal(vector[key], alone[key]) for key in alone)


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_edited_alike_in_any_order_of_tasks_and_slices(name, monkeypatch):
    pretrained, finetuned = tiny_models()
    pretrained["long"] = torch.zeros(40, 12)
    for model in finetuned.values():
        model["long"] = torch.randn(40, 12)
    edits = [EDITS[name]]

    def vectors(inputs: MergeInputs) -> dict:
        return {task: vector.load() for task, vector in replace(inputs, edits=tuple(edits)).vectors.items()}

    expected = vectors(merge_inputs((pretrained, finetuned)))
    backwards = dict(reversed(finetuned.items()))
    monkeypatch.setitem(module.SLICE_BYTES, "cpu", 4 * 8)
    for models in (finetuned, backwards, {"task1": finetuned["task1"], "new": finetuned["task2"]}):
        for task, vector in vectors(merge_inputs((pretrained, models))).items():
            if task in expected:
                assert all(torch.equal(vector[key], expected[task][key]) for key in vector), task
            else:  # another name, the same weights
                assert torch.equal(vector["long"], expected["task2"]["long"]) == (name == "breadcrumbs")


@pytest.mark.parametrize("edit", [RandomDrop(0.3, 0), RankedDrop(0.3, 0.1, 0)], ids=["dare", "della"])
def test_the_mean_is_kept_and_so_is_about_the_density(edit):
    values = torch.rand(1000, 1000) + 1
    left = edited(edit, values)
    assert left.count_nonzero().item() / 10**6 == pytest.approx(0.3, abs=5 * (0.21 / 10**6) ** 0.5)
    assert left.mean().item() == pytest.approx(values.mean().item(), rel=0.02)


def test_a_density_of_zero_keeps_nothing():
    assert not edited(RandomDrop(0.0, 0), torch.ones(64)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [5, torch.tensor([5, 5, 5, 2**31 - 1], dtype=torch.int32)])
def test_dropped_entries_are_zero_and_kept_ones_are_divided_by_their_probability(limit, dtype):
    values = torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=dtype)
    bits = torch.tensor([5, 6, -(2**31), 2**31 - 1 if isinstance(limit, Tensor) else 0], dtype=torch.int32)
    keep(values, bits, limit, torch.tensor([0.5, 0.5, 1.0, 0.25]))
    assert values.tolist() == [2.0, 0.0, 3.0, -16.0]


def test_breadcrumbs_keeps_a_band_of_each_row():
    rows = torch.tensor([[5.0, -4.0, 3.0, -2.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    left = edited(Band(0.4, 0.2), rows)
    assert left.tolist() == [[0.0, -4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 0.0]]  # of equal ones the last are dropped first
    assert edited(Band(0.4, 0.2), torch.tensor(7.0)).item() == 7.0
    assert not edited(Band(0.2, 0.0), torch.ones(3, 4)).any()  # a fifth of four is none


def test_dellas_probabilities_rise_with_the_rank():
    assert RankedDrop(0.5, 0.25, 0).probabilities(3).tolist() == [0.25, 0.5, 0.75]
    assert RankedDrop(0.5, 0.25, 0).probabilities(1).tolist() == [0.5]
    values = torch.arange(1.0, 101.0).repeat(1000, 1)
    left = edited(RankedDrop(0.5, 0.25, 0), values)
    shares = (left != 0).float().mean(0)
    assert (shares - RankedDrop(0.5, 0.25, 0).probabilities(100)).abs().max() < 5 * (0.25 / 1000) ** 0.5
    expected = values / RankedDrop(0.5, 0.25, 0).probabilities(100).float()
    torch.testing.assert_close(left[left != 0], expected[left != 0])


def test_a_convolutions_row_is_one_output_and_a_vectors_all_of_it():
    edit = RankedDrop(0.3, 0.1, 0)
    assert [edit.row_length(torch.Size(shape)) for shape in ((8, 3, 2, 2), (5, 7), (9,))] == [12, 7, 9]
    assert edited(edit, torch.tensor(7.0)).item() == 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_count_the_smaller_ones_and_equal_ones_before(dtype):
    magnitudes = torch.randint(0, 50, (20, 301)).to(dtype) / 7
    smaller = (magnitudes[:, None, :] < magnitudes[:, :, None]).sum(2)
    before = (magnitudes[:, None, :] == magnitudes[:, :, None]).tril(-1).sum(2)
    assert torch.equal(ranks_in_rows(magnitudes), smaller + before)


def test_random_numbers_are_uniform_and_unrelated():
    """Of other seeds, tasks, parameters and neighbours; in each part of the range, and in the highest bits."""
    size = 10**6
    first = bits_of()
    shares = torch.histc(first.float(), 64, -(2.0**31), 2.0**31) / size
    assert (shares - 1 / 64).abs().max() < 5 * (1 / 64 / size) ** 0.5
    kept = first <= bound(0.5)
    others: Sequence[Tensor] = [bits_of(seed=1), bits_of(task="b"), bits_of(key="v"), bits_of(key="a", task="w"), first.roll(1)]
    for other in [*others, *(first.roll(2**power) for power in range(1, 12))]:
        for low in (0.5, 0.1):
            pairs = torch.stack([(first <= bound(low)).float(), (other <= bound(low)).float()])
            assert pairs.corrcoef()[0, 1].abs() < 5 / size**0.5
    assert kept.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / size**0.5)


def test_random_numbers_go_on_where_a_slice_ends():
    whole = bits_of(size=1000)
    assert torch.equal(whole[600:], bits_of(size=400, start=600))
    assert bits_of(size=8, start=2**31 + 2**33).unique().numel() == 8  # numbers of entries wrap


def test_bounds_are_never_passed_by_certain_entries():
    assert bound(1.0).item() == 2**31 - 1 and bound(2.0**-32).item() == -(2**31)


@pytest.mark.parametrize("name", ["dare_p0.9_sum", "della_d0.3_e0.1_sum"])
def test_given_what_is_kept_the_sum_is_that_of_the_papers_code(name):
    pretrained = load_file(GOLDEN / "pretrained.safetensors")
    masks, expected = load_file(GOLDEN / "kept.safetensors"), load_file(GOLDEN / f"every8th_{name}.safetensors")
    edit, total = RankedDrop(0.3, 0.1, 0), {key: torch.zeros_like(leaf) for key, leaf in pretrained.items()}
    for number, file in enumerate(sorted(GOLDEN.glob("finetuned_*"))):
        model = load_file(file)
        mask = unpack(masks[f"{name.partition('_')[0]}_task{number}"], sum(map(Tensor.numel, pretrained.values())))
        start = 0
        for key in sorted(pretrained):
            values = model[key] - pretrained[key]
            dropped, start = (~mask[start : start + values.numel()]).int().view(values.shape), start + values.numel()
            if name.startswith("dare"):
                keep(values, dropped, 0, 0.1)
            elif values.ndim:
                length = edit.row_length(values.shape)
                ranks = ranks_in_rows(values.view(-1, length).abs()).view(values.shape)
                keep(values, dropped, 0, edit.probabilities(length).float()[ranks])
            total[key] += values
    error = sum((total[key].flatten()[::8] - leaf).square().sum() for key, leaf in expected.items())
    assert error <= 1e-12 * sum(leaf.square().sum() for leaf in expected.values())


@pytest.mark.parametrize(
    "options,message",
    [
        ("method=dare method.density=1.5", r"method\.density is the share"),
        ("method=dare method.density=x method.seed=-1", r"density.*\n.*method\.seed is a whole number"),
        ("method=della method.epsilon=0.3", r"above 0"),
        ("method=della method.density=0.9 method.epsilon=0.2", r"at most 1"),
        ("method=breadcrumbs method.gamma=0.9", r"together at most 1"),
        ("method=dare method@method.base=TSVC", r"makes one model"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build(*options.split())


def test_the_seed_is_part_of_what_a_method_is():
    one, two = (build("method=dare", f"method.seed={seed}").description for seed in (0, 1))
    assert one != two and one["base"] == build("method=sum").description
