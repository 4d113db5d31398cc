"""The style of all figures: colours, and how they are written."""

from pathlib import Path

from matplotlib.figure import Figure

from src.runtime.files import written_beside

INK, MUTED, GRID = "#1b2a41", "#8d99ae", "#e5e8ef"
GREY, ORANGE, BLUE = "#b8c1d1", "#e07a3f", "#3d6fa5"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    with written_beside(path) as draft:
        figure.savefig(draft, dpi=150, bbox_inches="tight", format="png")
