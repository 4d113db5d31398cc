"""Figures of an analysis."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.experiments.analysis import Analysis, LayerSpectrum
from src.reports.style import BLUE, GREY, GRID, INK, MUTED, ORANGE, save_figure

HEAT = "cividis"
MOST_KINDS = 8  # of layers in one figure; the numbers of all are in the json
CATASTROPHIC, SELFISH, SHARED = GREY, ORANGE, BLUE  # weights of no task, of one, of more


def draw_analysis(analysis: Analysis, title: str, folder: Path) -> list[Path]:
    """Write the figures of an analysis below `folder`; return their paths."""
    paths = [_cosine(analysis, title, folder / "cosine.png"), _norms(analysis, title, folder / "norms.png")]
    if analysis.masks:
        paths += [
            _mask_use(analysis, title, folder / "mask_use.png"),
            _mask_overlap(analysis, title, folder / "mask_overlap.png"),
        ]
    if analysis.layers:
        paths += [_spectra(analysis, title, folder / "spectra.png"), _subspaces(analysis, title, folder / "subspaces.png")]
    return paths


def _cosine(analysis: Analysis, title: str, path: Path) -> Path:
    figure, axes = _square(len(analysis.tasks))
    _heat(axes, analysis.cosine, analysis.tasks, "cosine")
    return _write(figure, axes, f"{title}: cosine similarity of the task vectors", path)


def _norms(analysis: Analysis, title: str, path: Path) -> Path:
    """Write the norm of each task's vector in each block, and outside the blocks."""
    figure = Figure(figsize=(7.2, 4))
    axes = figure.subplots()
    names = ["outside" if depth is None else str(number) for number, (depth, _) in enumerate(_outside_last(analysis.blocks))]
    colours = matplotlib.colormaps["viridis"].resampled(len(analysis.tasks) + 1)
    for row, task in enumerate(analysis.tasks):
        lengths = [norms[row] for _, norms in _outside_last(analysis.blocks)]
        axes.plot(names, lengths, marker="o", markersize=3.5, linewidth=1.2, color=colours(row), label=task, zorder=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("block", color=INK)
    axes.set_ylabel("norm of the task vector", color=INK)
    axes.grid(axis="y", color=GRID, zorder=0)
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=6)
    return _write(figure, axes, f"{title}: norms of the task vectors by block", path)


def _outside_last(blocks: list[tuple[float | None, list[float]]]) -> list[tuple[float | None, list[float]]]:
    """Return the blocks from shallow to deep, and then what lies outside them."""
    return sorted(blocks, key=lambda block: (block[0] is None, block[0] or 0.0))


def _mask_overlap(analysis: Analysis, title: str, path: Path) -> Path:
    figure, axes = _square(len(analysis.tasks))
    _heat(axes, analysis.masks.overlap, analysis.tasks, "weights in both masks over weights in either")
    return _write(figure, axes, f"{title}: overlap of the masks", path)


def _mask_use(analysis: Analysis, title: str, path: Path) -> Path:
    share = analysis.masks.share
    figure = Figure(figsize=(max(6.0, 0.7 * len(share) + 2), 4))
    axes = figure.subplots()
    colours = [CATASTROPHIC, SELFISH, *[SHARED] * (len(share) - 2)]
    axes.bar(range(len(share)), [100 * value for value in share], color=colours, zorder=2)
    for count, value in enumerate(share):
        axes.text(count, 100 * value, f"{100 * value:.1f}", ha="center", va="bottom", fontsize=8, color=INK)
    names = {0: "0\ncatastrophic", 1: "1\nselfish"}
    axes.set_xticks(range(len(share)), [names.get(count, str(count)) for count in range(len(share))], fontsize=9)
    axes.set_xlabel("tasks whose mask selects a weight (2 and more: shared)", color=INK)
    axes.set_ylabel("share of weights (%)", color=INK)
    axes.grid(axis="y", color=GRID, zorder=0)
    return _write(figure, axes, f"{title}: weights by the number of tasks that use them", path)


def _spectra(analysis: Analysis, title: str, path: Path) -> Path:
    """Write the singular values of each task, over the largest, in a shallow, a middle and a deep layer of each kind."""
    kinds = {kind: [layers[number] for number in sorted({0, len(layers) // 2, len(layers) - 1})]
             for kind, layers in _kinds(analysis.layers).items()}  # fmt: skip
    rows = max(len(layers) for layers in kinds.values())
    figure = Figure(figsize=(3.8 * len(kinds), 2.5 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, len(kinds), squeeze=False)
    colours = matplotlib.colormaps["viridis"].resampled(len(analysis.tasks) + 1)
    for column, layers in enumerate(kinds.values()):
        for row in range(rows):
            axes = grid[row][column]
            if row >= len(layers):
                axes.set_axis_off()
                continue
            layer = layers[row]
            for number, (task, values) in enumerate(zip(analysis.tasks, layer.values)):
                largest = values[0] or 1.0
                points = [(index, value / largest) for index, value in enumerate(values, start=1) if value > 0]
                axes.plot(*zip(*points or [(1, 0)]), color=colours(number), linewidth=1.2, label=task)
            axes.axvline(layer.rank, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set_yscale("log")
            axes.set_ylim(1e-3, 1.3)
            axes.set_title(layer.name, fontsize=6.5, color=INK, loc="left")
            _plain(axes)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False, fontsize=8)
    figure.suptitle(f"{title}: singular values over the largest (dashed: 1/T of them)", fontsize=11, color=INK, x=0.01, ha="left")
    save_figure(figure, path)
    return path


def _subspaces(analysis: Analysis, title: str, path: Path) -> Path:
    """Write the mean overlap of the tasks' leading left singular spaces by block, a line for each kind of layer."""
    figure = Figure(figsize=(7.2, 4))
    axes = figure.subplots()
    for kind, layers in _kinds(analysis.layers).items():
        blocks = [block for block in (_block(layer.name) for layer in layers) if block is not None]
        blocks = blocks if len(set(blocks)) == len(layers) else list(range(len(layers)))
        axes.plot(blocks, [_mean_overlap(layer) for layer in layers], marker="o", markersize=4, label=kind, zorder=2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block", color=INK)
    axes.set_ylabel("overlap of two tasks' leading spaces, mean", color=INK)
    axes.grid(axis="y", color=GRID, zorder=0)
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return _write(figure, axes, f"{title}: how much of its singular space a task shares with another", path)


def _mean_overlap(layer: LayerSpectrum) -> float:
    """Return the mean overlap of two different tasks; 1 where there is one task."""
    count = len(layer.overlap)
    others = sum(map(sum, layer.overlap)) - sum(layer.overlap[number][number] for number in range(count))
    return others / (count * (count - 1)) if count > 1 else 1.0


def _block(name: str) -> int | None:
    """Return the first number in a layer's name; None if it has none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _kinds(layers: list[LayerSpectrum]) -> dict[str, list[LayerSpectrum]]:
    """Return layers by their name without the block's number, in order: those that occur in several blocks, else all."""
    kinds: dict[str, list[LayerSpectrum]] = {}
    for layer in layers:
        number = _block(layer.name)
        kind = layer.name if number is None else layer.name.replace(f".{number}.", ".*.", 1)
        kinds.setdefault(kind, []).append(layer)
    repeated = {kind: group for kind, group in kinds.items() if len(group) > 1} or kinds
    return dict(list(repeated.items())[:MOST_KINDS])


def _square(tasks: int) -> tuple[Figure, Axes]:
    side = max(4.2, 0.55 * tasks + 1.6)
    figure = Figure(figsize=(side + 1, side))
    return figure, figure.subplots()


def _heat(axes: Axes, values: list[list[float]], tasks: list[str], label: str) -> None:
    others = [value for row, line in enumerate(values) for column, value in enumerate(line) if row != column]
    low, high = min(others, default=0.0), max(others, default=1.0)  # the diagonal is 1 and says nothing
    image = axes.imshow(values, cmap=HEAT, vmin=low, vmax=high)
    middle = (low + high) / 2
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, extend="max").set_label(label, color=INK)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=8)


def _write(figure: Figure, axes: Axes, title: str, path: Path) -> Path:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    _plain(axes)
    save_figure(figure, path)
    return path
