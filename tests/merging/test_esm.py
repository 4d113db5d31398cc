"""ESM against a literal reading of its formulas, with the inputs of layers themselves."""

import pytest
import torch

from command_line.build import build_method, build_statistics_settings
from command_line.config import compose_config
from src.merging.engine import statistics
from src.merging.engine.inputs import MergeInputs
from src.merging.esm import essential_merge, scales_by_norm
from src.merging.tsvm import merged_triplets
from src.models.layers import is_layer_by_name

TOKENS = 40


def literal(vectors, inputs):
    """The formulas step by step: P of each task from the singular vectors of X tau^T, completed to a basis of outputs."""
    tasks, (rows, _) = len(vectors), vectors[0].shape
    rank, lefts, rights, norms = rows // tasks, [], [], []
    for tau, x in zip(vectors, inputs):
        _, s, vh = torch.linalg.svd(x @ tau.T, full_matrices=True)
        p, eigenvalues = vh.T, torch.zeros(rows).double()
        eigenvalues[: len(s)] = torch.where(s > 1e-10 * s[0], s, 0) ** 2 / (len(x) - 1)
        a = p.T @ tau
        norms.append(torch.linalg.norm(a))
        a = a * norms[-1] ** 2
        e = (eigenvalues[:rank] / eigenvalues[:rank].mean()) ** 0.15
        e = e / e.mean()
        lefts.append(p[:, :rank] * e)
        rights.append(a[:rank] * e[:, None])
    left, right = torch.cat(lefts, 1), torch.cat(rights) / (sum(norms) / tasks) ** 2
    columns = torch.linalg.norm(right, dim=0)
    right = right * (columns / columns.mean()) ** 2

    def isotropic(matrix):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u @ vh * s.mean()

    return 2 * isotropic(left) @ isotropic(right)


def layer(rows, columns, tasks=3, seed=0, tokens=TOKENS):
    draw = torch.Generator().manual_seed(seed)
    vectors = (
        torch.randn(tasks, rows, columns, dtype=torch.float64, generator=draw) * torch.tensor([1.0, 2.0, 0.5])[:tasks, None, None]
    )
    scale = torch.linspace(0.2, 2, columns).double()
    return vectors, [torch.randn(tokens, columns, dtype=torch.float64, generator=draw) * scale for _ in range(tasks)]


@pytest.mark.parametrize(("rows", "columns"), [(9, 12), (12, 12), (12, 5), (13, 6), (30, 9)])
def test_a_layer_is_merged_as_the_formulas_say(rows, columns):
    """Wide, square and tall; 30 x 9 has fewer directions than a third of its outputs."""
    vectors, inputs = layer(rows, columns)
    found = essential_merge(vectors, [x.T @ x / TOKENS for x in inputs])
    torch.testing.assert_close(found, literal(vectors, inputs), rtol=1e-6, atol=1e-7)


def test_a_layer_of_one_output_a_task_by_hand():
    """Two tasks that move one output each, by the same norm: both are kept, each 2 x its part times the mean singular values.

    A = diag(3, 3) by rows, its columns of one norm; P = I. So X = 2 * I * 3 * I for mean singular values of 1 and 3.
    """
    vectors = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    torch.testing.assert_close(essential_merge(vectors, [torch.eye(2), torch.eye(2)]), torch.diag(torch.tensor([6.0, 6.0])))


def test_what_no_task_moves_and_too_many_tasks_give_zero():
    zeros = torch.zeros(2, 4, 3)
    assert (
        not essential_merge(zeros, [torch.eye(3)] * 2).any()
        and not essential_merge(torch.ones(5, 4, 3), [torch.eye(3)] * 5).any()
    )
    vectors, inputs = layer(6, 6, tasks=2)
    vectors[1] = 0
    assert essential_merge(vectors, [x.T @ x for x in inputs]).isfinite().all()


def test_the_unit_of_a_gram_matrix_does_not_count_and_that_of_vectors_scales():
    vectors, inputs = layer(9, 12)
    grams = [x.T @ x for x in inputs]
    whole = essential_merge(vectors, grams)
    torch.testing.assert_close(essential_merge(vectors, [7 * gram for gram in grams]), whole)
    torch.testing.assert_close(essential_merge(3 * vectors, grams), 3 * whole)


def test_norms_of_layers_of_one_kind_are_drawn_apart():
    scales = scales_by_norm(
        {"a.0.fc.weight": 1.0, "a.1.fc.weight": 3.0, "a.0.proj.weight": 5.0, "a.1.proj.weight": 0.0, "b": 4.0}
    )
    assert scales == {"a.0.fc.weight": 0.25, "a.1.fc.weight": 2.25, "a.0.proj.weight": 4.0, "a.1.proj.weight": 0.0, "b": 1.0}


@pytest.mark.parametrize("keep", [True, False])
def test_a_model_is_merged_layer_by_layer(keep):
    """Layers with inputs by ESM, output projections and embeddings by TSV-M, the rest averaged; then scaled within their kind."""
    shapes = {f"blocks.{block}.{part}": shape for block in range(2)
              for part, shape in {"fc.weight": (9, 6), "out_proj.weight": (6, 6), "fc.bias": (9,)}.items()} | {"tokens": (7, 6)}  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    pretrained = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    finetuned = {
        task: {key: leaf + 0.1 * torch.randn(leaf.shape, generator=draw) for key, leaf in pretrained.items()} for task in "ab"
    }
    xs = {task: {key: torch.randn(TOKENS, 6, generator=draw) for key in shapes if key.endswith("weight")} for task in "ab"}
    grams = {task: {key: x.T @ x / TOKENS for key, x in by_key.items()} for task, by_key in xs.items()}
    inputs = MergeInputs(pretrained, finetuned, lambda key: None, lambda key: is_layer_by_name(key) or key == "tokens", torch.device("cpu"), keep, {statistics.GRAM_IN: grams})  # fmt: skip
    vector = build_method(compose_config(["method=esm"]))(inputs)(1.0)["a"]
    stacks = {key: torch.stack([finetuned[task][key] - pretrained[key] for task in "ab"]) for key in shapes}
    merged = {}
    for key, stack in stacks.items():
        if key.endswith("fc.weight"):
            merged[key] = literal(stack.double(), [xs[task][key].double() for task in "ab"]).float()
        else:
            merged[key] = stack.mean(0) if key.endswith("bias") else merged_triplets(stack).product
    for kind in ("fc.weight", "out_proj.weight"):
        keys = [f"blocks.{block}.{kind}" for block in range(2)]
        mean = sum(merged[key].norm() for key in keys) / 2
        merged |= {key: merged[key] * (merged[key].norm() / mean) ** 2 for key in keys}
    for key, leaf in merged.items():
        torch.testing.assert_close(vector[key], leaf, rtol=1e-4, atol=1e-5)


def test_it_has_its_own_number_of_examples_which_the_user_may_change():
    examples = {options: build_statistics_settings(compose_config(list(options))).examples for options in (
        ("method=esm",), ("method=regmean",), ("method=sum",), ("method=esm", "statistics.examples=64"), ("method=esm", "method.examples=8"))}  # fmt: skip
    assert list(examples.values()) == [32, 1000, 1000, 64, 8]
