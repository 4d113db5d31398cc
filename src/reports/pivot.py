"""Tables of whatever records there are: of one model and benchmark each, methods by tasks, or any field by any other."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from src.experiments.titles import format_method
from src.reports.grid import Cell, Grid
from src.reports.measures import Figure, measure, over_seeds
from src.reports.records import NO_DATA, Record
from src.reports.significance import tie_note, with_ties

TASK = "task"
MEANS = {"merged": "mean", "normalised": "normalised"}  # shown beside the tasks, with their headings
OF_A_TABLE = ("model", "finetuning_mode", "tasks")  # of a question: what all records of a table share
SEED = "seed"
NONE = "none"  # a field that a record has not


def tables_of(records: Sequence[Record]) -> list[Grid]:
    """Return a table of methods by tasks for each model, mode of fine-tuning, list of tasks and benchmark; others by kind."""
    grids = []
    merges = [record for record in records if record.kind == "merge" and isinstance(record.content.get("test"), Mapping)]
    for (model, mode, tasks, benchmark), group in _grouped(merges, _setting).items():
        title = f"{model}{'' if mode in ('standard', '') else f' ({mode})'}, {len(tasks)} tasks, benchmark {benchmark}"
        grids.append(_table(f"{title}: test accuracy in %", group))
    others = [record for record in records if record not in merges and isinstance(record.content.get("means"), Mapping)]
    for (kind, benchmark), group in _grouped(others, lambda record: (record.kind, _text(record, "benchmark"))).items():
        cells = [
            Cell(_text(record, "name"), mean, "%", Figure(100 * each["mean"], _percent(each.get("half_width_95"))))
            for record in group
            for mean, each in record.content["means"].items()
            if isinstance(each, Mapping) and isinstance(each.get("mean"), int | float)
        ]
        grids.append(Grid(f"{kind.replace('_', ' ')}, benchmark {benchmark}", cells))
    return [grid for grid in grids if grid.cells]


def _table(title: str, records: Sequence[Record]) -> Grid:
    """Return the table of merges of one setting: a row a method, the mean over its seeds, lowest first."""
    names, cells, single = labels(records), [], {}
    rows = [list(seeds.values()) for seeds in _by_seed(records).values()]
    for seeds in sorted(rows, key=lambda seeds: fmean(_value(measure("merged", record)) for record in seeds)):
        name = names[seeds[0].path]
        by_column: dict[str, list[Figure]] = {}
        for record in seeds:
            for column, figure in _figures(record).items():
                by_column.setdefault(column, []).append(figure)
        cells += [Cell(name, column, "%", over_seeds(figures)) for column, figures in by_column.items()]
        single[name, MEANS["merged"], "%"] = seeds[0]
    cells = with_ties(cells, single)
    notes = ["of several records of one question the newest is shown"] * (len(records) > sum(map(len, rows)))
    uses = dict.fromkeys(f"{names[seeds[0].path]}: {seeds[0].data}" for seeds in rows if seeds[0].data != NO_DATA)
    notes += [f"made of data, too: {'; '.join(uses)}"] * bool(uses)
    notes += ["\u00b1: the standard deviation over seeds"] * any(len(seeds) > 1 for seeds in rows)
    return Grid(title, cells, [*notes, *tie_note(cells)])


def pivot(records: Sequence[Record], rows: str, columns: str, figure: str) -> list[Grid]:
    """Return a table of a figure by two fields for each benchmark; `task` as a field has merged accuracies.

    Of several records in a cell it is the mean where they differ in the seed alone, else that of the newest.
    """
    return [grid for benchmark, group in _grouped(records, lambda record: _text(record, "benchmark")).items()
            if (grid := _pivot_of(group, rows, columns, figure, benchmark)).cells]  # fmt: skip


def _pivot_of(records: Sequence[Record], rows: str, columns: str, figure: str, benchmark: str) -> Grid:
    names, questions = labels(records), _by_seed(records)
    by_place: dict[tuple[str, str], list[tuple[float, list[Figure]]]] = {}
    for seeds in questions.values():
        own: dict[tuple[str, str], list[Figure]] = {}
        for record in seeds.values():
            figures = {None: measure(figure, record)}
            if TASK in (rows, columns):
                figures = {column: each for column, each in _figures(record).items() if column not in MEANS.values()}
            for task, each in figures.items():
                if each:
                    place = tuple(task if name == TASK else field(record, name, names) for name in (rows, columns))
                    own.setdefault(place, []).append(each)
        newest = max(record.path.stat().st_mtime for record in seeds.values())
        for place, figures_of_seeds in own.items():
            by_place.setdefault(place, []).append((newest, figures_of_seeds))
    cells = [Cell(*place, figure, over_seeds(max(found, key=lambda each: each[0])[1])) for place, found in by_place.items()]
    several = sum(len(found) > 1 for found in by_place.values())
    notes = [f"{several} cells have records of several questions; the newest is shown"] * bool(several)
    return Grid(f"{figure} by {rows} and {columns}, benchmark {benchmark}", cells, notes)


def _by_seed(records: Iterable[Record]) -> dict[str, dict[object, Record]]:
    """Return the newest record of each seed, by all else that decides a result: its kind, its question and its recipe."""
    questions: dict[str, dict[object, Record]] = {}
    for record in sorted(records, key=lambda record: record.path.stat().st_mtime):
        key = json.dumps([record.kind, record.question, _recipe(record)], sort_keys=True)
        questions.setdefault(key, {})[json.dumps(record.config("model", "recipe", SEED))] = record
    return questions


def _recipe(record: Record) -> dict:
    recipe = record.config("model", "recipe")
    return {key: value for key, value in recipe.items() if key != SEED} if isinstance(recipe, Mapping) else {}


def labels(records: Sequence[Record]) -> dict:
    """Return the method of each record by its path; of those called alike with the options in which they differ."""
    by_name = _grouped(records, _method)
    names = {}
    for name, group in by_name.items():
        options = [_flat({key: value for key, value in {**record.question, "recipe": _recipe(record)}.items()
                          if key not in OF_A_TABLE}) for record in group]  # fmt: skip
        differing = [key for key in dict.fromkeys(key for each in options for key in each)
                     if len({each.get(key) for each in options}) > 1 and not key.endswith("_target_")]  # fmt: skip
        for record, each in zip(group, options):
            own = ", ".join(f"{key.removeprefix('method.')}={each.get(key, 'null').strip(chr(34))}" for key in differing)
            names[record.path] = f"{name} ({own})" if own else name
    return names


def field(record: Record, name: str, names: Mapping) -> str:
    """Return a field of a record as text: `method`, `model`, `tasks` (their number), `data`, or any by path, as config.seed."""
    if name == "method":
        return names[record.path]
    if name == "data":
        return record.data
    if name == "tasks":
        tasks = record.question.get("tasks")
        return str(len(tasks)) if isinstance(tasks, list) else NONE
    for holder in (record.content, record.question, record.content.get("choices"), record.content.get("config")):
        node: object = holder
        for key in name.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is not None:
            return node if isinstance(node, str) else json.dumps(node)
    return NONE


def has_field(record: Record, name: str) -> bool:
    """Whether a record has a field that is anything."""
    return name == "method" or field(record, name, {}) != NONE


def _figures(record: Record) -> dict[str, Figure]:
    """Return the merged accuracy on each task, and the means."""
    tests, figures = record.content.get("test"), {}
    for task, scores in tests.items() if isinstance(tests, Mapping) else ():
        merged = scores.get("merged") if isinstance(scores, Mapping) else None
        accuracy = merged.get("accuracy") if isinstance(merged, Mapping) else None
        if isinstance(accuracy, int | float):
            figures[task] = Figure(100 * accuracy)
    return figures | {heading: figure for name, heading in MEANS.items() if (figure := measure(name, record))}


def _setting(record: Record) -> tuple:
    mode = record.question.get("finetuning_mode")
    name = mode.get("name", "") if isinstance(mode, Mapping) else ""
    return _text(record.question, "model"), name, tuple(record.content["test"]), _text(record, "benchmark")


def _method(record: Record) -> str:
    """Return what a record calls its method: the end of its title's name, or the choice."""
    choice = field(record, "choices.method", {})
    if choice == NONE:
        return field(record, "question.method._target_", {}).rpartition(".")[2].replace(NONE, record.kind)
    options, normalise = record.question.get("method"), record.question.get("normalise")
    return format_method(choice, options if isinstance(options, Mapping) else {}, normalise)


def _grouped(records: Iterable[Record], key: Callable) -> dict:
    groups: dict = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _flat(node: object, name: str = "") -> dict[str, str]:
    if isinstance(node, Mapping):
        return {
            key: value for part, each in node.items() for key, value in _flat(each, f"{name}.{part}" if name else part).items()
        }
    return {name: json.dumps(node)}


def _text(source: Record | Mapping, name: str) -> str:
    value = (source.content if isinstance(source, Record) else source).get(name)
    return value if isinstance(value, str) else "unknown"


def _value(figure: Figure | None) -> float:
    return figure.value if figure else 0.0


def _percent(share: object) -> float | None:
    return 100 * share if isinstance(share, int | float) else None
