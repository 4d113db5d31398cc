"""The tables of results: in a narrow terminal without rules, headings and names wrapped, and no number cut."""

from collections.abc import Sequence

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

Row = Sequence[str]


def show_table(console: Console, title: str, headings: Row, rows: Sequence[Row], mean: Row = ()) -> None:
    """Print rows, each a name and its figures.

    headings: of all columns.
    mean: a last row, below a rule.
    """
    columns = list(zip(headings, *filter(None, (*rows, mean))))
    figures = [4, *(_longest(cells[1:]) for cells in columns[1:])]  # the least widths that break no figure
    words = [_longest(cells) for cells in columns]  # and no word
    rules, spaces = 3 * len(columns) + 1, len(columns) - 1
    for box, widths in ((HEAVY_HEAD, words), (None, words), (None, figures)):
        room = console.width - sum(widths) - (rules if box else spaces)
        if room >= 0:
            break
    table = Table(title=title, min_width=min(len(title), console.width), box=box)
    if not box:
        table.padding, table.pad_edge = (0, 1, 0, 0), False
    if room < 0:
        table.width = console.width - room  # the terminal breaks its lines
    while room > 0 and (wrapped := [number for number, cells in enumerate(columns) if widths[number] < max(map(len, cells))]):
        widths[min(wrapped, key=lambda number: widths[number])] += 1
        room -= 1
    for number, (heading, width) in enumerate(zip(headings, widths)):
        table.add_column(heading, justify="right" if number else "left", width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if mean:
        table.add_section()
        table.add_row(*mean)
    console.print(table, crop=False)


def _longest(texts: Sequence[str]) -> int:
    """Return the length of the longest word."""
    return max((len(word) for text in texts for word in text.split()), default=1)
