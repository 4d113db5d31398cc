"""What a report is asked for, from its command line, and writing it."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from rich.console import Console

from command_line.experiments import read_experiment, read_seeds
from src.errors import UserError, plural, raise_any, suggestion
from src.reports import grid as formats
from src.reports.grid import Grid
from src.reports.measures import MEASURES
from src.reports.pivot import TASK, has_field, labels, pivot, tables_of
from src.reports.pivot import field as field_of
from src.reports.records import Record, read_records
from src.runtime.files import expand_path, written_beside
from src.runtime.untrusted import read_json

WRITERS: dict[str, Callable[[Sequence[Grid]], str]] = {
    ".md": lambda grids: "\n".join(map(formats.markdown, grids)),
    ".tex": lambda grids: "\n".join(map(formats.latex, grids)),
    ".csv": formats.csv_text,
}
PAGE = ".html"


@dataclass(frozen=True)
class Request:
    """What a report is asked for; see report.py.

    others: further `FIELD=VALUE`: of an experiment its options, else what records are to have.
    """

    experiment: str | None = None
    results_dir: str = "results"
    output: tuple[str, ...] = ()
    rows: str = "method"
    columns: str = TASK
    figure: str = "merged"
    seeds: tuple[int, ...] = ()
    config_dir: str | None = None
    lineages: str | None = None
    others: tuple[str, ...] = field(default=())

    @property
    def is_plain(self) -> bool:
        """Whether it is for methods by tasks."""
        return not self.experiment and (self.rows, self.columns, self.figure) == ("method", TASK, "merged")

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Request":
        """Return the request of a command line. Raise UserError for all that is wrong with it at once."""
        arguments = [text.replace("--config-dir=", "config_dir=", 1) for text in arguments]
        problems = [f"{text}: a report is asked for by key=value; --help lists the keys" for text in arguments if "=" not in text]
        values, others = {}, []
        names = [each.name for each in fields(cls) if each.name != "others"]
        for text in (text for text in arguments if "=" in text):
            key, _, value = text.lstrip("+").partition("=")
            if key not in names:
                others.append(text)
            elif key in values:
                problems.append(f"{key} is given twice; give it once")
            else:
                values[key] = value
        outputs = tuple(filter(None, values.pop("output", "").strip("[]").split(",")))
        problems += [
            f"output={path}: a report is written as {', '.join((*WRITERS, PAGE))}; choose one of these endings"
            for path in outputs
            if Path(path).suffix not in (*WRITERS, PAGE)
        ]
        if (figure := values.get("figure")) and figure not in MEASURES:
            problems.append(f"figure={figure}: {suggestion(figure, MEASURES)}")
        elif figure not in (None, cls.figure) and TASK in (values.get("rows"), values.get("columns", cls.columns)):
            problems.append(f"figure={figure} is of a run, and not of each task; give columns=tasks, or another field")
        raise_any(problems)
        seeds = tuple(read_seeds([f"seeds={values.pop('seeds')}"])) if "seeds" in values else ()
        return cls(**values, output=outputs, seeds=seeds, others=tuple(others))


def grids_of(request: Request) -> tuple[list[Grid], list[Record], list[str]]:
    """Return the tables that are asked for, the records that they are of, and a sentence on each file that is no record.

    Raise UserError where there is nothing to show.
    """
    folder = expand_path(request.results_dir)
    folders = [request.config_dir] if request.config_dir else []
    raise_any(f"--config-dir={each} is no folder; check the path" for each in folders if not Path(each).is_dir())
    raise_any([f"results_dir={folder} is a file, and a folder is needed"] if folder.is_file() else [])
    experiment = None if request.experiment is None else read_experiment(request.experiment, folders)
    records, problems = read_records(folder)
    if request.lineages:
        records = _named(records, expand_path(request.lineages))
    if not records and not experiment:
        raise UserError([*problems, f"there are no results in {folder}; run something first, or name their folder: results_dir="])
    if experiment:
        from command_line.reporting import grid_of_experiment

        return [grid_of_experiment(experiment, records, request.others, request.seeds, folders)], records, problems
    records = _selected(records, request.others)
    unknown = [name for name in (request.rows, request.columns)
               if name != TASK and not any(has_field(record, name) for record in records)]  # fmt: skip
    raise_any(f"no record has a field {name}; look into one, or leave it out" for name in unknown)
    grids = tables_of(records) if request.is_plain else pivot(records, request.rows, request.columns, request.figure)
    return grids, records, problems


def write_report(request: Request) -> None:
    """Print the tables that are asked for, or write them to files. Raise UserError where there is nothing to show."""
    grids, records, problems = grids_of(request)
    if not request.output:
        console = Console()
        for grid in grids:
            formats.show(grid, console)
    for name in request.output:
        path = expand_path(name)
        text = _page(request, grids, records) if path.suffix == PAGE else WRITERS[path.suffix](grids)
        try:
            with written_beside(path) as draft:
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"output={path} cannot be written ({error.strerror}); choose another place") from error
        print(path)
    for problem in problems:
        print(problem, file=sys.stderr)


def _named(records: Sequence[Record], manifest: Path) -> list[Record]:
    """Return the records under the names that a manifest gives to their lineages, where it knows them."""
    from src.evaluation.lineage import UNKNOWN, benchmark_of, read_manifests  # with torch

    entries = read_manifests([manifest])
    named = []
    for record in records:
        lineage, model = record.content.get("lineage", {}), record.question.get("model")
        name = benchmark_of(lineage, model, entries) if isinstance(model, str) else UNKNOWN
        named.append(record if name == UNKNOWN else replace(record, content={**record.content, "benchmark": name}))
    return named


def _selected(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Return the records with one of the values of each condition, `FIELD=A,B`. Raise UserError if none is left."""
    names = labels(records)
    kept = list(records)
    for condition in conditions:
        key, _, value = condition.partition("=")
        wanted = value.strip("[]").split(",")
        found = sorted({field_of(record, key, names) for record in kept})
        kept = [record for record in kept if field_of(record, key, names) in wanted or _choice(record, key) in wanted]
        if not kept:
            raise UserError(f"{condition}: no record has it; {plural(len(records), 'record')} have {key} {', '.join(found)}")
    return kept


def _choice(record: Record, key: str) -> str | None:
    """Return what was chosen of a group of options; None if nothing, which is not a choice called none."""
    name = f"choices.{key}"
    return field_of(record, name, {}) if has_field(record, name) else None


def _page(request: Request, grids: Sequence[Grid], records: Sequence[Record]) -> str:
    from src.reports.page import page

    compared = [
        {
            "table": grid.title,
            "row": cell.row,
            "column": f"{cell.column} {cell.metric}",
            "ours": cell.figure and cell.figure.value,
            "half_width": cell.figure and cell.figure.half_width,
            "published": cell.published.value,
            "difference": cell.figure and cell.figure.value - cell.published.value,
            "verdict": cell.verdict.name,
            "reason": cell.verdict.reason,
            "source": f"{cell.published.paper}: {cell.published.source}",
            "confidence": cell.published.confidence,
        }
        for grid in grids
        for cell in grid.compared
    ]
    title = grids[0].title if len(grids) == 1 else "Results"
    tables = [] if request.is_plain else [formats.html_table(grid) for grid in grids]  # the page has the plain one itself
    return page(title, [{**record.content, **_analysis(record)} for record in records], compared, tables)


def _analysis(record: Record) -> dict:
    """Return the analysis of what the tasks of a merge share, which lies in the folder of its figures; {} if there is none."""
    path = record.path.with_suffix("") / "analysis.json"
    with contextlib.suppress(UserError, OSError):
        return {"analysis": read_json(path)}
    return {}
