"""Analysis of what fine-tuned models share: masks, cosines, singular values, subspaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from rich.console import Console
from torch import Tensor

from src.compact.packing import unpack
from src.experiments.tables import show_table
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import leading_triplets_of_each, singular_values
from src.merging.engine.threads import parallel_map
from src.state_dict import StateDict


@dataclass(frozen=True)
class LayerSpectrum:
    """Singular values and subspaces of one layer's matrix.

    depth: 0 to 1, None outside the blocks.
    values: singular values by task, largest first.
    rank: number of leading directions that `overlap` compares.
    overlap: (tasks, tasks), the share of one task's leading left singular directions that lies in another's:
        |U_i^T U_j|^2 / rank, 1 for the same space.
    effective_rank: by task, the exponential of the entropy of the singular values over their sum (Roy and Vetterli, 2007).
    """

    name: str
    depth: float | None
    values: list[list[float]]
    rank: int
    overlap: list[list[float]]
    effective_rank: list[float]


@dataclass(frozen=True)
class MaskUse:
    """How the tasks' masks share the changed weights.

    share: by number of tasks 0..T, the share of weights that so many masks select (0: catastrophic, 1: selfish, more:
        shared).
    kept: by task, the share that its mask selects.
    overlap: (tasks, tasks), the weights that two masks both select over those that either does.
    """

    share: list[float]
    kept: list[float]
    overlap: list[list[float]]


@dataclass(frozen=True)
class Analysis:
    """The analysis of several task vectors of one pre-trained model.

    cosine: (tasks, tasks), between task vectors.
    norm: their 2-norms.
    changed: by task, the share of entries that differ from the pre-trained ones.
    blocks: the depths of blocks, None for what lies outside them, and by task the 2-norm of what lies there.
    layers: of each layer's matrix.
    masks: where the method has them.
    """

    tasks: list[str]
    cosine: list[list[float]]
    norm: list[float]
    changed: list[float]
    blocks: list[tuple[float | None, list[float]]]
    layers: list[LayerSpectrum] = field(default_factory=list)
    masks: MaskUse | None = None


def analyse(inputs: MergeInputs, masks: Mapping[str, StateDict] | None) -> Analysis:
    """Return the analysis, streaming: one pass for norms and cosines, one decomposition for each layer's matrix of each task."""
    tasks = list(inputs.tasks)
    zero = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    by_depth: dict[float | None, Tensor] = {}
    counts = torch.zeros(len(tasks), dtype=torch.int64)
    for key in filter(inputs.changed, inputs.outline):
        for products, changed in inputs.each(key, _inner_products):
            by_depth[inputs.depth(key)] = by_depth.get(inputs.depth(key), zero) + products
            counts += changed
    gram = sum(by_depth.values(), start=zero)
    norm = gram.diagonal().sqrt()
    scale = norm.outer(norm)
    cosine = torch.where(scale > 0, gram / scale, 0.0)
    depths = sorted(by_depth, key=lambda depth: -1 if depth is None else depth)
    blocks = [(depth, by_depth[depth].diagonal().sqrt().tolist()) for depth in depths]
    layers = [_spectrum(inputs, key) for key in inputs.outline if inputs.is_matrix(key) and inputs.changed(key)]
    use = mask_use(inputs, [masks[task] for task in tasks]) if masks and by_depth else None
    return Analysis(tasks, cosine.tolist(), norm.tolist(), (counts / max(inputs.size, 1)).tolist(), blocks, layers, use)


def show_analysis(analysis: Analysis, console: Console) -> None:
    """Print a row of figures for each task."""
    others = max(len(analysis.tasks) - 1, 1)
    rows = []
    for row, task in enumerate(analysis.tasks):
        ranks = [layer.effective_rank[row] / max(len(layer.values[row]), 1) for layer in analysis.layers]
        rows.append((
            task,
            f"{analysis.norm[row]:.3g}",
            f"{100 * analysis.changed[row]:.1f} %",
            f"{(sum(analysis.cosine[row]) - analysis.cosine[row][row]) / others:.3f}",
            f"{100 * fmean(ranks):.1f} %" if ranks else "-",
        ))  # fmt: skip
    headings = ("task vector", "norm", "entries changed", "mean cosine to others", "mean effective rank")
    show_table(console, "What is merged", headings, rows)


def mask_use(inputs: MergeInputs, masks: Sequence[StateDict]) -> MaskUse:
    """Return how the masks share the weights that any task changed.

    masks: of each task, packed, by key.
    """
    count = len(masks)
    votes = torch.zeros(count + 1, dtype=torch.int64)
    both = torch.zeros(count, count, dtype=torch.float64)
    total = 0
    for key, leaf in inputs.outline.items():
        if not inputs.changed(key):
            continue
        total += leaf.numel()
        packed = [mask[key].cpu() for mask in masks]
        for start in range(0, len(packed[0]), 2**14):
            length = min(8 * 2**14, leaf.numel() - 8 * start)
            bits = torch.stack([unpack(mask[start : start + 2**14], length) for mask in packed])
            votes += torch.bincount(bits.sum(0), minlength=count + 1)
            indicators = bits.float()
            both += indicators @ indicators.T
    sizes = both.diagonal()
    either = sizes[:, None] + sizes[None] - both
    overlap = torch.where(either > 0, both / either, 0.0)
    return MaskUse((votes / total).tolist(), (sizes / total).tolist(), overlap.tolist())


def _inner_products(_: slice, stack: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products of the tasks' vectors in a slice, (tasks, tasks), and how many entries each changed there."""
    vectors = stack.double()
    return (vectors @ vectors.T).cpu(), stack.count_nonzero(1).cpu()


def _spectrum(inputs: MergeInputs, key: str) -> LayerSpectrum:
    with inputs.stacked(key) as stack:
        rank = max(int(min(stack.shape[1:]) / len(stack)), 1)
        values = list(parallel_map(singular_values, stack, inputs.device))
        bases = torch.stack([triplets.left for triplets in leading_triplets_of_each(stack, rank)])
    overlap = torch.einsum("imr,jms->ijrs", bases, bases).square().sum((2, 3)) / rank
    lists = [singular.tolist() for singular in values]
    return LayerSpectrum(key, inputs.depth(key), lists, rank, overlap.tolist(), list(map(effective_rank, values)))


def effective_rank(values: Tensor) -> float:
    """Return the exponential of the entropy of singular values over their sum; 0 where all are zero."""
    shares = values[values > 0] / values.sum()
    return torch.special.entr(shares).sum().exp().item() if len(shares) else 0.0
