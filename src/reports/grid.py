"""A table of measured figures, beside published ones: its cells, its best ones, and its text in every format."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Console

from src.experiments.tables import show_table
from src.reports.measures import Figure
from src.reports.published import Published, Verdict

UNRANKED = ("coefficient",)  # metrics of which neither the most nor the least is the best
LOWER_IS_BETTER = ("megabytes", "megabytes_separate", "gigabits", "gigabits_separate", "seconds", "storage", "error",
                   "target_negated")  # metrics, and measures  # fmt: skip
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "±": r"$\pm$", "≈": r"$\approx$",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell.

    figure: None where nothing was measured.
    verdict: None where nothing is published.
    ties_best: whether a paired test does not tell it from the best of its column; the best itself does not have it.
    """

    row: str
    column: str
    metric: str
    figure: Figure | None
    published: Published | None = None
    verdict: Verdict | None = None
    ties_best: bool = False

    @property
    def text(self) -> str:
        """The figure as tables show it."""
        return "-" if self.figure is None else f"{self.figure}{' ≈' if self.ties_best else ''}"


@dataclass(frozen=True)
class Grid:
    """A table: a title, its cells, and sentences below it.

    lower_is_better: further metrics of which the least is the best.
    unranked: rows that are no competitors, such as the pre-trained and the fine-tuned models, whose cells are never the best.
    """

    title: str
    cells: Sequence[Cell]
    notes: Sequence[str] = ()
    lower_is_better: Sequence[str] = ()
    unranked: Sequence[str] = ()

    @cached_property
    def rows(self) -> list[str]:
        """The names of the rows."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        """The column and metric of each column of figures, in the order of the rows that have most of them."""
        by_row: dict[str, list[Cell]] = {}
        for cell in self.cells:
            by_row.setdefault(cell.row, []).append(cell)
        longest = sorted(by_row.values(), key=len, reverse=True)
        return list(dict.fromkeys((cell.column, cell.metric) for cells in longest for cell in cells))

    @property
    def headings(self) -> list[str]:
        """The headings of the columns of figures, without what all of them share."""
        metrics = {metric for _, metric in self.columns}
        names = {column for column, _ in self.columns}
        return [" ".join([column] * (len(names) > 1 or not column) + [metric] * (len(metrics) > 1 or len(names) == 1)) or metric
                for column, metric in self.columns]  # fmt: skip

    def cell(self, row: str, column: tuple[str, str]) -> Cell | None:
        """Return a cell, None if there is none."""
        return self._by_place.get((row, *column))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], Cell]:
        """The first cell of each row, column and metric."""
        return {(cell.row, cell.column, cell.metric): cell for cell in reversed(self.cells)}

    def ranks(self) -> dict[tuple[str, str, str], int]:
        """Return 0 for the best and 1 for the second best cell of each column with several, by row, column and metric."""
        ranks = {}
        for column in (column for column in self.columns if column[1] not in UNRANKED):
            cells = [cell for row in self.rows if row not in self.unranked and (cell := self.cell(row, column)) and cell.figure]
            cells.sort(key=lambda cell: cell.figure.value, reverse=column[1] not in (*LOWER_IS_BETTER, *self.lower_is_better))
            ranks |= {(cell.row, *column): rank for rank, cell in enumerate(cells[:2]) if len(cells) > 1}
        return ranks

    def texts(self) -> list[list[str]]:
        """Return the rows as text, each with its name first."""
        return [[row, *(cell.text if (cell := self.cell(row, column)) else "" for column in self.columns)] for row in self.rows]

    @property
    def compared(self) -> list[Cell]:
        """The cells with a published figure."""
        return [cell for cell in self.cells if cell.published]

    def comparison(self) -> list[list[str]]:
        """Return a row of text for each cell with a published figure, under `COMPARISON`."""
        return [
            [
                cell.row,
                cell.column,
                cell.metric,
                cell.text,
                cell.published.text,
                f"{cell.figure.value - cell.published.value:+.1f}" if cell.figure else "",
                cell.verdict.name,
                cell.verdict.reason,
            ]
            for cell in self.compared
        ]


COMPARISON = ("method", "column", "metric", "ours", "published", "difference", "verdict", "why")


def show(grid: Grid, console: Console) -> None:
    """Print a table, and below it the comparison with published figures."""
    show_table(console, grid.title, ("", *grid.headings), grid.texts())
    if grid.compared:
        show_table(console, "beside published figures", COMPARISON[:-1], [row[:-1] for row in grid.comparison()])
        reasons = dict.fromkeys(f"{row[-2]}: {row[-1]}" for row in grid.comparison() if row[-2] == "not comparable")
        for reason in reasons:
            console.print(reason, highlight=False, soft_wrap=True)
    for note in grid.notes:
        console.print(note, highlight=False, soft_wrap=True)


def markdown(grid: Grid) -> str:
    """Return a table as Markdown, the best cell of a column in bold, the second underlined."""
    ranks = grid.ranks()

    def mark(cell: Cell | None) -> str:
        if cell is None:
            return ""
        before, after = {0: ("**", "**"), 1: ("<u>", "</u>")}.get(ranks.get((cell.row, cell.column, cell.metric)), ("", ""))
        return f"{before}{_plain(cell.text)}{after}"

    rows = [[_plain(row), *(mark(grid.cell(row, column)) for column in grid.columns)] for row in grid.rows]
    parts = [f"### {_plain(grid.title)}", _markdown_table(["", *map(_plain, grid.headings)], rows)]
    if grid.compared:
        parts.append(_markdown_table(list(COMPARISON), [list(map(_plain, row)) for row in grid.comparison()]))
    return "\n\n".join([*parts, *(_plain(note) for note in grid.notes)]) + "\n"


def latex(grid: Grid) -> str:
    """Return a table as LaTeX with booktabs, the best cell of a column in bold, the second underlined."""
    ranks = grid.ranks()

    def mark(cell: Cell | None) -> str:
        if cell is None:
            return ""
        command = {0: r"\textbf{%s}", 1: r"\underline{%s}"}.get(ranks.get((cell.row, cell.column, cell.metric)), "%s")
        return command % _latex(cell.text)

    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_latex(grid.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}", r"\toprule"]
    lines.append(" & ".join(["", *map(_latex, grid.headings)]) + r" \\")
    lines.append(r"\midrule")
    for row in grid.rows:
        lines.append(" & ".join([_latex(row), *(mark(grid.cell(row, column)) for column in grid.columns)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if grid.compared:
        lines += ["", rf"\begin{{tabular}}{{l{'r' * (len(COMPARISON) - 1)}}}", r"\toprule"]
        lines += [" & ".join(COMPARISON[:-1]) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_latex, row[:-1])) + r" \\" for row in grid.comparison()]
        lines += [r"\bottomrule", r"\end{tabular}"]
    reasons = dict.fromkeys(f"{row[-2]}: {row[-1]}" for row in grid.comparison() if row[-2] == "not comparable")
    lines += ["", *(rf"\par\footnotesize {_latex(note)}" for note in (*reasons, *grid.notes)), r"\end{table}"]
    return "\n".join(lines) + "\n"


def html_table(grid: Grid) -> str:
    """Return a table as a section of an HTML page, the best cell of a column in bold, the second underlined."""
    ranks, marks = grid.ranks(), {0: "<strong>{}</strong>", 1: "<u>{}</u>"}

    def mark(cell: Cell | None) -> str:
        text = html.escape(cell.text) if cell else ""
        return marks.get(ranks.get((cell.row, cell.column, cell.metric)) if cell else None, "{}").format(text)

    headings = "".join(f'<th scope="col" class="number">{html.escape(heading)}</th>' for heading in grid.headings)
    rows = [
        f'<tr><th scope="row">{html.escape(row)}</th>'
        + "".join(f'<td class="number">{mark(grid.cell(row, column))}</td>' for column in grid.columns)
        + "</tr>"
        for row in grid.rows
    ]
    notes = [f'<p class="note">{html.escape(note)}</p>' for note in grid.notes]
    head = f'<thead><tr><th scope="col">method</th>{headings}</tr></thead>'
    table = f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return "\n".join([f"<section><h2>{html.escape(grid.title)}</h2>", table, *notes, "</section>"])


def csv_text(grids: Sequence[Grid]) -> str:
    """Return tables as one csv, a line a cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("value", "half_width_95", "spread", "ties_best", "published", "difference", "source", "confidence", "verdict",
             "reason")  # fmt: skip
    writer.writerow(("table", "row", "column", "metric", *names))
    for grid in grids:
        for cell in grid.cells:
            figure, theirs, verdict = cell.figure, cell.published, cell.verdict
            own = (figure.value, figure.half_width, figure.spread, cell.ties_best) if figure else [None] * 4
            difference = figure.value - theirs.value if figure and theirs else None
            published = (theirs.text, difference, theirs.source, theirs.confidence) if theirs else [None] * 4
            judged = (verdict.name, verdict.reason) if verdict else (None, None)
            writer.writerow((grid.title, cell.row, cell.column, cell.metric, *own, *published, *judged))
    return out.getvalue()


def _markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Return text of strangers (names of tasks, notes) as Markdown shows it literally in one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~" else letter for letter in text)
    return " ".join(escaped.split())


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
