"""The HTML page of a report: one file without a framework, from which no request leaves."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from src.reports.page.groups import group_of, numbered
from src.reports.page.lenient import mapping, number, text
from src.reports.page.rows import row_of, tasks_of

FOLDER = Path(__file__).parent
SCRIPTS = ("elements", "format", "table", "plot", "results", "tasks", "charts", "published", "main")  # in order of use
POOLED = ("options", "uses", "depth", "notes")  # of rows, which often share them: each different value is written once
FIGURES = ("ours", "half_width", "published", "difference")  # of comparisons
WORDS = ("table", "row", "column", "verdict", "reason", "source", "confidence")


def page(title: str, records: Sequence[Mapping], comparisons: Sequence[Mapping], tables: Sequence[str] = ()) -> str:
    """Return the HTML page of records and of their comparisons with published numbers.

    records: as results/*.json have them, of any kind and format; what a record lacks is not shown. `analysis`, the contents of
        the analysis.json beside a record, adds masks and spectra.
    comparisons: each a cell of a published table: table, row, column, ours, half_width, published, difference, verdict, reason,
        source and confidence, numbers in the table's unit.
    tables: in HTML (`grid.html_table`), which come first.
    """
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    script = "\n".join((FOLDER / "script" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    policy = f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; base-uri 'none'; form-action 'none'"
    data = json.dumps(_contents(records, comparisons), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&":  # in a script element no text may end it, nor begin a comment
        data = data.replace(character, f"\\u{ord(character):04x}")
    template = Template((FOLDER / "page.html").read_text(encoding="utf-8"))
    first = "\n".join(tables)
    filled = template.substitute(title=html.escape(title), policy=policy, style=style, script=script, data=data, tables=first)
    return filled.encode(errors="replace").decode()  # halves of characters, which JSON may hold, can be written to no file


def _contents(records: Sequence[Mapping], comparisons: Sequence[Mapping]) -> dict:
    """Return what the page's script reads."""
    records = [mapping(record) for record in records]
    groups, numbers = numbered([group_of(record, tasks_of(record)) for record in records])
    rows = [{"group": group, **row_of(record, groups[group]["tasks"])} for record, group in zip(records, numbers)]
    pool: dict[str, int] = {}

    def pooled(value: object) -> int:
        return pool.setdefault(json.dumps(value), len(pool))

    for row in rows:
        row.update({key: pooled(row[key]) for key in POOLED if key in row})
        row["scores"] = {column: pooled(scores) for column, scores in row.get("scores", {}).items()}
    cells = [
        {**{key: number(cell.get(key)) for key in FIGURES}, **{key: text(cell.get(key)) for key in WORDS}}
        for cell in map(mapping, comparisons)
    ]
    shared = {"pooled": POOLED, "pool": [json.loads(value) for value in pool]}
    return {"groups": groups, "rows": rows, "comparisons": cells, **shared}


def _source(contents: str) -> str:
    """Return a content as a security policy names it: by its digest, so that no other is run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(contents.encode()).digest()).decode()}'"
