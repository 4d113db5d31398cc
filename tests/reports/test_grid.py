"""Tables in each format, what they make of strangers' names, and tables of whatever lies in a folder."""

import csv
import io
import shutil
import subprocess

import pytest
from rich.console import Console

from command_line.report_request import Request, grids_of
from src.reports.grid import Cell, Grid, csv_text, html_table, latex, markdown, show
from src.reports.measures import Figure
from src.reports.pivot import labels, pivot, tables_of
from src.reports.published import Published, Verdict
from tests.helpers.records import FINETUNED, ZEROSHOT, merge_record, save_records

THEIRS = Published("74.2", "%", "tall-v2", "page-image", "page 3", "paper")
CELLS = [
    Cell("Zero-shot", "small", "acc", Figure(99.0)),
    Cell("one", "small", "acc", Figure(70.0, 0.5), THEIRS, Verdict("differs", "4.20 apart")),
    Cell("two", "small", "acc", Figure(71.0, 0.5)),
    Cell("three_3", "small", "acc", Figure(70.9, 0.5), ties_best=True),
    Cell("four", "small", "acc", None, THEIRS, Verdict("not run")),
    *(Cell(row, "small", "megabytes", Figure(size)) for row, size in (("one", 5.0), ("two", 3.0), ("three_3", 4.0))),
]
GRID = Grid("A & B_1", CELLS, ["a note | of 5 %"], unranked=["Zero-shot"])
HOSTILE = r"\input{x} | <script>alert(1)</script> $x^2$ `a` *b* \\ %"


def test_the_best_is_bold_and_the_second_underlined_whichever_way_is_better():
    assert GRID.headings == ["acc", "megabytes"]
    text = markdown(GRID)
    assert "| two | **71.0 ± 0.5** | **3.0** |" in text and r"| three\_3 | <u>70.9 ± 0.5 ≈</u> | <u>4.0</u> |" in text
    section = html_table(GRID)
    assert "<strong>71.0 ± 0.5</strong>" in section and "<u>70.9 ± 0.5 ≈</u>" in section and "<u>4.0</u>" in section
    assert "| Zero-shot | 99.0 |  |" in text and "| four | - |  |" in text  # no competitor
    assert r"| one | small | acc | 70.0 ± 0.5 | 74.2 | -4.2 | differs | 4.20 apart |" in text
    table = latex(GRID)
    assert r"two & \textbf{71.0 $\pm$ 0.5} & \textbf{3.0} \\" in table and r"\underline{70.9 $\pm$ 0.5 $\approx$}" in table
    assert r"\caption{A \& B\_1}" in table and table.count(r"\toprule") == table.count(r"\bottomrule") == 2  # the second compares


def test_a_csv_has_a_line_a_cell():
    rows = list(csv.DictReader(io.StringIO(csv_text([GRID]))))
    assert len(rows) == len(CELLS) and rows[1]["published"] == "74.2" and rows[1]["source"] == "page 3"
    assert float(rows[1]["value"]) == 70.0 and rows[4]["value"] == "" and rows[4]["verdict"] == "not run"


def test_a_terminal_shows_the_table_then_the_comparison_then_notes():
    console = Console(file=io.StringIO(), width=120)
    show(GRID, console)
    text = console.file.getvalue()
    assert text.index("A & B_1") < text.index("beside published figures") < text.index("a note")


def test_names_of_strangers_are_text():
    grid = Grid(HOSTILE, [Cell(HOSTILE, HOSTILE, "%", Figure(1.0)), Cell("b\nc", HOSTILE, "%", Figure(1.0))])
    text = markdown(grid)
    assert "<script>" not in text.replace("\\<", "") and "| b c |" in text
    section = html_table(grid)
    assert "<script>" not in section and "&lt;script&gt;" in section
    table = latex(grid)
    assert r"\input" not in table and r"\textbackslash{}input\{x\}" in table


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no compiler of LaTeX")
def test_latex_compiles(tmp_path):
    body = latex(GRID) + latex(Grid(HOSTILE, [Cell(HOSTILE, HOSTILE, "%", Figure(1.0))]))
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    (tmp_path / "t.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_records_of_different_lineages_never_share_a_table(tmp_path):
    records = save_records(tmp_path, merge_record("sum"), merge_record("ties", lines=True), merge_record("sum", benchmark="demo"))
    grids = tables_of(records)
    assert [grid.title for grid in grids] == [f"m, 2 tasks, benchmark {name}: test accuracy in %" for name in ("own", "demo")]
    assert set(grids[0].rows) == {"sum", "ties + LiNeS"} and grids[1].rows == ["sum"]
    assert [column for column, _ in grids[0].columns] == ["A", "B", "mean", "normalised"]
    (own, demo) = pivot(records, "model", "method", "seconds")
    assert own.texts() == [["m", "2.5", "2.5"]] and demo.texts() == [["m", "2.5"]]


def test_methods_called_alike_are_told_apart_by_the_options_in_which_they_differ(tmp_path):
    first, second = merge_record("ties"), merge_record("ties")
    second["question"]["method"]["k"] = 10
    records = save_records(tmp_path, first, second, merge_record("sum"))
    assert sorted(labels(records).values()) == ["sum", "ties (k=10)", "ties (k=20)"]


@pytest.mark.parametrize(
    ("condition", "rows"),
    [("data=none", ["ties"]), ("data=unlabelled test", ["ada"]), ("data=none,unlabelled test", ["ties", "ada"])],
)
def test_what_is_made_of_data_is_said_and_can_be_left_out(tmp_path, condition, rows):
    save_records(tmp_path, merge_record("ties", merged=ZEROSHOT), merge_record("ada", data="unlabelled test"))
    (kept,), _, _ = grids_of(Request.of([f"results_dir={tmp_path}", condition]))
    assert kept.rows == rows
    assert [note for note in kept.notes if "data" in note] == ["made of data, too: ada: unlabelled test"] * ("ada" in rows)


def test_records_of_seeds_are_a_mean_with_a_spread_and_repeated_ones_are_said(tmp_path):
    seeded = [merge_record("sum", [1] * right + [0] * (10 - right)) for right in (5, 6, 7)]
    for seed, record in enumerate(seeded):
        record["config"]["model"] = {"recipe": {"seed": seed}}
    (grid,) = pivot(save_records(tmp_path, *seeded), "method", "model", "merged")
    assert grid.texts() == [["sum", "60.0 ± 10.0"]] and not grid.notes
    (table,) = tables_of(save_records(tmp_path, *seeded))
    assert table.texts()[0][:3] == ["sum", "60.0 ± 10.0", "60.0 ± 10.0"] and "over seeds" in table.notes[0]
    again = [merge_record("sum"), merge_record("sum", [1] * 10)]
    records = save_records(tmp_path / "again", *again)
    (grid,), (table,) = pivot(records, "method", "task", "merged"), tables_of(records)
    assert grid.texts() == [["sum", "100.0", "100.0"]] and table.texts()[0][:3] == ["sum", "100.0", "100.0"]
    assert "the newest is shown" in table.notes[0]


def test_records_of_other_questions_are_neither_averaged_nor_called_alike(tmp_path):
    narrow = merge_record("sum", [0] * 10)
    narrow["question"]["precision"] = "bf16"
    other = merge_record("sum", [1] * 10)
    other["config"]["model"] = {"recipe": {"seed": 1, "epochs": 9}}
    records = save_records(tmp_path, merge_record("sum"), narrow, other)
    (table,) = tables_of(records)
    assert (
        len(table.rows) == 3
        and any("precision=bf16" in row for row in table.rows)
        and any("epochs=9" in row for row in table.rows)
    )
    (grid,) = pivot(records, "model", "tasks", "merged")
    assert grid.texts() == [["m", "100.0 ± 10.0"]] and "several questions" in grid.notes[0]


def test_methods_that_the_same_examples_do_not_tell_apart_are_marked(tmp_path):
    few = [1] * 8 + [0] * 2
    records = save_records(tmp_path, merge_record("best", FINETUNED), merge_record("near", few), merge_record("far", [0] * 10))
    (table,) = tables_of(records)
    marks = {row[0]: row[3].endswith("≈") for row in table.texts()}
    assert marks == {"far": False, "near": True, "best": False} and table.notes[-1].startswith("≈")


def test_records_that_lack_what_tables_show_are_left_out_without_an_error(tmp_path):
    odd = [{"name": "a", "question": {}}, {"name": "b", "question": {}, "test": {"A": 3, "B": {"merged": {}}}},
           {"name": "c", "question": {"method": 3, "tasks": None}, "kind": "negation", "means": {"x": {"mean": 0.5}, "y": 3}},
           merge_record(choices=None, benchmark=3)]  # fmt: skip
    records = save_records(tmp_path, *odd)
    titles = [grid.title for grid in tables_of(records)]
    assert len(titles) == 1 and "negation, benchmark unknown" in titles
    for rows, columns, figure in (
        ("method", "task", "merged"),
        ("config.model.name", "tasks", "seconds"),
        ("nothing", "a.b", "error"),
    ):
        pivot(records, rows, columns, figure)
