"""What a page shows of a record, in a compact form; records of any kind and format, whatever they lack."""

from collections.abc import Iterator, Mapping, Sequence

from src.evaluation.scorer import Score
from src.experiments.record import half_width
from src.experiments.titles import format_method
from src.reports.page.analyses import analysis_of
from src.reports.page.budget import budget
from src.reports.page.lenient import at, items, mapping, number, spread, text

MERGE, UNKNOWN = "merge", "of an unknown kind"
# Of each kind: where its tasks stand, and the columns of their scores with the paths from a task.
SCORES = {
    MERGE: ("test", {"zero-shot": ("zeroshot",), "fine-tuned": ("finetuned",), "merged": ("merged",)}),
    "single_task": ("scores", {"validation": ("val",), "test": ("test",)}),
    "negation": (
        "tasks",
        {
            f"{kind} {when}": ("test", kind, model)
            for kind in ("target", "control")
            for when, model in (("before", "pretrained"), ("after", "negated"))
        },
    ),
    "disentanglement": ("shares", {}),
}
CURVE_POINTS, NOTES = 60, 20  # at most, of a record
HIDDEN = {
    "_target_",
    "grid",
    "betas",
    "off_diagonals",
    "examples",  # shown as statistics.examples
    "apply_lines",
    "apply_svc",
    "step_order",
}  # options of a method that its rows do not list
USUAL = {  # what goes without saying among the options that decide a result
    "finetuning_mode.name": "standard",
    "statistics.labels": "empirical",
    "statistics.examples": 1000,
    "precision": "fp32",
    "search": "grid",
    "specify_lambda": None,
    "n_eval_points": None,
    "bundle.bits": None,
    "bundle.per": "layer",
    "bundle.base_bits": None,
}


def kind_of(record: Mapping) -> str:
    """Return the kind of a record; records of the first formats, which do not say it, are told by what they hold."""
    by_contents = (kind for kind, (place, _) in SCORES.items() if isinstance(record.get(place), Mapping))
    return text(record.get("kind")) or next(by_contents, UNKNOWN)


def tasks_of(record: Mapping) -> list[str]:
    """Return the tasks that a record has scores of."""
    place, _ = SCORES.get(kind_of(record), ("tasks", {}))
    return list(mapping(record.get(place)))


def row_of(record: Mapping, tasks: Sequence[str]) -> dict:
    """Return the row of a record: what it lacks is left out.

    tasks: in the order in which scores are listed.
    """
    kind = kind_of(record)
    row = {
        "name": text(record.get("name")),
        "kind": kind,
        "method": method_of(record),
        "options": ", ".join(f"{name}={text(value)}" for name, value in _options(record)),
        "coefficient": _coefficient(record),
        "means": {
            name: [number(at(mean, "mean")), number(at(mean, "half_width_95"))]
            for name, mean in mapping(record.get("means")).items()
            if isinstance(mean, Mapping)
        },
        "scores": _scores(record, kind, tasks),
        "summary": {name: number(value) for name, value in mapping(record.get("summary")).items()},
        "bytes": number(at(record, "storage", "bytes") or record.get("bytes_stored"), 0),
        "separate": number(at(record, "storage", "separate"), 0),
        "seconds": number(record.get("seconds"), 1),
        "uses": budget(record) if kind == MERGE else {},
        "curve": _curve(items(record.get("validation"))),
        "depth": [[name, number(scale)] for name, scale in mapping(record.get("scale_by_depth")).items()],
        "analysis": analysis_of(mapping(record.get("analysis"))),
        "notes": [text(note) for note in items(record.get("notes"))[:NOTES]],
    }
    return {key: value for key, value in row.items() if value not in (None, "", [], {})}


def method_of(record: Mapping) -> str:
    """Return the method as the user chose it: `ties`, `ties + LiNeS`; of other experiments the fine-tuning mode."""
    if kind_of(record) != MERGE:
        return text(at(record, "question", "finetuning_mode", "name") or record.get("name")) or "unnamed"
    method = _method(record)
    name = (
        text(at(record, "choices", "method"))
        or _module(method)
        or text(record.get("name")).rpartition("-")[0]
        or "unknown method"
    )
    return format_method(name, method, text(at(record, "question", "normalise")))


def _options(record: Mapping) -> Iterator[tuple[str, object]]:
    """Yield the options that tell records of one method apart, by name."""
    if kind_of(record) != MERGE:
        return
    method = _method(record)
    for name, value in method.items():
        if name not in HIDDEN and value is not None and value is not False and not isinstance(value, Mapping):
            yield name, value
    if method.get("base") != method.get("own_base"):
        yield "base", _module(mapping(method.get("base")))
    for name, usual in USUAL.items():
        if (value := at(record, "question", *name.split("."))) is not None and value != usual:
            yield name.removesuffix(".name"), value


def _method(record: Mapping) -> Mapping:
    """Return the options of the method, which the first formats have with all others."""
    return mapping(at(record, "question", "method") or at(record, "config", "method"))


def _module(method: Mapping) -> str:
    """Return the name of the module of a method's class, as its file is called."""
    return text(method.get("_target_")).rpartition(".")[0].rpartition(".")[2]


def _coefficient(record: Mapping) -> float | str | None:
    coefficient = number(record.get("coefficient"))
    own = {number(each) for each in mapping(record.get("coefficients")).values()} - {None}
    return "by task" if coefficient is None and own else coefficient


def _scores(record: Mapping, kind: str, tasks: Sequence[str]) -> dict[str, list]:
    """Return by column the accuracies of all tasks, then the half widths of their 95 % intervals; None where there is none."""
    place, columns = SCORES.get(kind, ("", {}))
    scores = {column: [_score(at(record, place, task, *path)) for task in tasks] for column, path in columns.items()}
    known = {column: pairs for column, pairs in scores.items() if any(accuracy is not None for accuracy, _ in pairs)}
    return {column: list(map(list, zip(*pairs))) for column, pairs in known.items()}


def _score(score: object) -> tuple[float | None, float | None]:
    """Return the accuracy and the half width of its 95 % interval."""
    right, count, squares = (number(at(score, key), 9) for key in ("right", "count", "squares"))
    if right is None or count is None or not 0 <= right <= count or count == 0:
        return number(at(score, "accuracy")), None
    exact = Score(right, count, squares)
    return number(exact.accuracy), number(half_width([max(exact.variance, 0.0)]))


def _curve(points: Sequence) -> list[list]:
    """Return the coefficients of a search, ascending, and the mean validation accuracy at each."""
    found = []
    for point in points:
        accuracies = [each for value in mapping(at(point, "accuracy")).values() if (each := number(value)) is not None]
        coefficient = number(at(point, "coefficient"))
        if accuracies and coefficient is not None:
            found.append((coefficient, number(sum(accuracies) / len(accuracies))))
    return list(map(list, zip(*spread(sorted(found), CURVE_POINTS))))
