"""Figures of results."""

from collections.abc import Callable, Mapping
from functools import partial, singledispatch
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from src.experiments.disentanglement import DisentanglementResult
from src.experiments.merge import MergeResult, TaskScores, mean_accuracies
from src.experiments.record import Z95, Result
from src.reports.style import BLUE, GREY, GRID, INK, ORANGE, save_figure

MODELS = (("zeroshot", "zero-shot", GREY), ("merged", "merged", ORANGE), ("finetuned", "fine-tuned", BLUE))


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the figures of a result below `folder`; return their paths."""
    paths = []
    for name, write in figure_writers(result).items():
        paths.append(folder / f"{name}.png")
        write(paths[-1])
    return paths


@singledispatch
def figure_writers(result: Result) -> dict[str, Callable[[Path], None]]:
    """Return functions that write the figures of a result to a path, by the figures' names."""
    return {}


@figure_writers.register
def _(result: MergeResult) -> dict[str, Callable[[Path], None]]:
    by_depth = {"scale_by_depth": partial(draw_scale_by_depth, result)} if result.scale_by_depth else {}
    unseen = {"unseen": partial(draw_accuracy, f"{result.heading}, unseen tasks", result.unseen)} if result.unseen else {}
    return {"accuracy": partial(draw_accuracy, result.heading, result.scores), **unseen, **by_depth}


@figure_writers.register
def _(result: DisentanglementResult) -> dict[str, Callable[[Path], None]]:
    return {"disentanglement": partial(draw_disentanglement, result)}


def draw_accuracy(heading: str, scores: Mapping[str, TaskScores], path: Path) -> None:
    """Write bars by task: the accuracy of the merged model between those of the pre-trained and the fine-tuned ones."""
    tasks, means = list(scores), mean_accuracies(scores.values())
    figure = Figure(figsize=(max(6.0, 1.15 * len(tasks) + 2.4), 4.4))
    axes = figure.subplots()
    width = 0.27
    drawn = [each for each in MODELS if each[0] in means]
    for position, (model, label, colour) in enumerate(drawn):
        bars = {number: score for number, task in enumerate(tasks) if (score := getattr(scores[task], model))}
        heights = [100 * score.accuracy for score in bars.values()]
        errors = [100 * Z95 * score.variance**0.5 for score in bars.values()]
        centres = [number + (position - (len(drawn) - 1) / 2) * width for number in bars]
        axes.bar(centres, heights, width * 0.94, label=label, color=colour, zorder=2)
        axes.errorbar(centres, heights, errors, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5, zorder=3)
        if model == "merged":
            for centre, height, error in zip(centres, heights, errors):
                axes.text(centre, height + error + 1.2, f"{height:.0f}", ha="center", va="bottom", fontsize=8, color=INK,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6}, zorder=4)  # fmt: skip
        axes.axhline(100 * means[model]["mean"], color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    normalised = f", {100 * means['normalised']['mean']:.1f} % normalised" if "normalised" in means else ""
    title = f"{heading}: {100 * means['merged']['mean']:.1f} % on average{normalised}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xticks(range(len(tasks)), tasks, rotation=0 if len(tasks) <= 10 else 45, fontsize=9)
    axes.set_ylim(0, 108)
    _finish(figure, axes, "test accuracy (%), dashed: means", path)


def draw_scale_by_depth(result: MergeResult, path: Path) -> None:
    """Write what LiNeS multiplies each block's entries by."""
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    names = [name for name, _ in result.scale_by_depth]
    scales = [scale for _, scale in result.scale_by_depth]
    axes.plot(range(len(names)), scales, marker="o", color=ORANGE, linewidth=2, label="LiNeS", zorder=3)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(min(0, min(scales) * 1.15), max(0, max(scales) * 1.15) or 1)
    axes.set_xlabel("block", color=INK)
    axes.set_title(f"{result.title}: scale of the task vector by depth", loc="left", fontsize=11, color=INK)
    _finish(figure, axes, "scale", path)


def draw_disentanglement(result: DisentanglementResult, path: Path) -> None:
    """Write a heat map of the error over both coefficients, with a box where merging looks for them."""
    first, second = result.shares
    low, high = result.grid[0], result.grid[-1]
    half = (high - low) / (len(result.grid) - 1) / 2
    figure = Figure(figsize=(5.6, 4.8))
    axes = figure.subplots()
    image = axes.imshow(
        [[100 * error for error in row] for row in zip(*result.error)], origin="lower", cmap="Blues", vmin=0, vmax=100,
        extent=(low - half, high + half, low - half, high + half),
    )  # fmt: skip
    if high >= 1:
        axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color=ORANGE, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.set_xticks(axes.get_yticks(), labels=[])
    axes.set_xlim(low - half, high + half)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    bar = figure.colorbar(image, ax=axes, shrink=0.9, extend="max")  # one scale for all, so that modes can be compared
    bar.set_label("test predictions that change (%, sum of both tasks)", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=INK)
    axes.set_xlabel(f"coefficient of {first}", color=INK)
    axes.set_title(f"Disentanglement error: {result.title}", loc="left", fontsize=10, color=INK)
    _finish(figure, axes, f"coefficient of {second}", path, grid=False)


def _finish(figure: Figure, axes: Axes, label: str, path: Path, grid: bool = True) -> None:
    axes.set_ylabel(label, color=INK)
    if grid:
        axes.grid(axis="y", color=GRID, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
    save_figure(figure, path)
