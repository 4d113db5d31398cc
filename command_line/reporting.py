"""The table of an experiment, from the records of its runs; and tables of whatever records there are."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib import import_module

from omegaconf import DictConfig, OmegaConf

from command_line.config import compose_config, portable, setting
from command_line.experiments import MAIN, Experiment, Run, decides, is_group, search_path, seed_options
from command_line.overrides import parse_overrides
from src.errors import plural, raise_any
from src.reports.grid import Cell, Grid
from src.reports.measures import mean_of, measure, over_seeds
from src.reports.published import NOT_COMPARABLE, NOT_RUN, Verdict, published_table, verdict_on
from src.reports.records import Record
from src.reports.significance import tie_note, with_ties


def grid_of_experiment(
    experiment: Experiment, records: Sequence[Record], typed: Sequence[str], seeds: Sequence[int], folders: Sequence[str] = ()
) -> Grid:
    """Return the table of an experiment.

    typed, seeds: as in `Experiment.selected`.
    folders: the user's, with further configurations.
    """
    selected, rest = experiment.selected(typed, seeds)
    runs, changes = list(selected.values()), [text for text in rest if decides(text)]
    found = dict(zip(runs, _records_of(experiment, runs, records, folders)))
    published, cells = published_table(experiment.published), []
    columns = list(dict.fromkeys(tuple(run.column.items()) for run in runs))
    for labels in columns:
        column = dict(labels)
        for row in experiment.rows:
            own = [run for run in runs if run.column == column and row.name in run.rows]
            for metric, name in row.figures.items() if own else ():
                by_seed: dict[int | None, list] = {}
                for run in own:
                    by_seed.setdefault(run.seed, []).append(found[run] and measure(name, found[run]))
                figures = [mean_of(name, parts) for parts in by_seed.values() if None not in parts]
                theirs = published.get((column.get("model", ""), column.get("tasks", ""), row.name, metric))
                figure = over_seeds(figures) if figures else None
                verdict = None
                if theirs:
                    measured = [record for run in own if (record := found[run])]
                    verdict = Verdict(NOT_RUN) if not measured else Verdict(NOT_COMPARABLE, "no record of it has this figure")
                    if figure:
                        verdict = verdict_on(figure, theirs, measured, changes)
                cells.append(Cell(row.name, ", ".join(column.values()), metric, figure, theirs, verdict))
    shown = {(row.name, ", ".join(run.column.values()), metric): found[run] for run in runs for row in experiment.rows
             if row.name in run.rows for metric, name in row.figures.items() if name == "merged"}  # fmt: skip
    cells = with_ties(cells, shown, experiment.unranked)
    missing = sum(record is None for record in found.values())
    notes = list(_notes(experiment, cells, found, missing))
    return Grid(experiment.title, cells, notes, experiment.lower_is_better, experiment.unranked)


def _notes(experiment: Experiment, cells: Sequence[Cell], found: Mapping[Run, Record | None], missing: int) -> Iterable[str]:
    """Yield what is to be said below the table of an experiment."""
    if missing:
        command = f"python main.py -m +experiment={experiment.name}"
        yield f"{missing} of {plural(len(found), 'run')} {'is' if missing == 1 else 'are'} not there yet; {command} runs them"
    benchmarks = sorted({record.content.get("benchmark", "unknown") for record in found.values() if record})
    if benchmarks:
        yield f"benchmark: {', '.join(benchmarks)}" + (" (not to be compared with one another)" if len(benchmarks) > 1 else "")
    yield from tie_note(cells)
    for row, reason in experiment.left_out.items():
        yield f"published and not run here: {row}, {reason}"
    figures = [cell.figure for cell in cells if cell.figure]
    if any(figure.spread is not None for figure in figures):
        yield "±: the standard deviation over seeds"
    elif any(figure.half_width is not None for figure in figures):
        yield "±: half of the 95 % interval of sampling error"


def _records_of(
    experiment: Experiment, runs: Sequence[Run], records: Sequence[Record], folders: Sequence[str]
) -> list[Record | None]:
    """Return the newest record of each run; None where there is none."""
    newest = sorted(records, key=lambda record: record.path.stat().st_mtime, reverse=True)
    asked = [_asked(experiment.script, config) for config in _configs(runs, folders)]
    return [next((record for record in newest if _answers(record) == each), None) for each in asked]


def _asked(script: str, config: DictConfig) -> tuple:
    """Return what tells the records of a run from others: their kind, their question, and the weights and heads they are of."""
    module = import_module("command_line.merging" if script == MAIN else script.removesuffix(".py"))  # with torch
    tasks, question = module.question_of(config)
    return module.KIND, json.loads(json.dumps({**setting(config, tasks), **question})), _weights(portable(config))


def _answers(record: Record) -> tuple:
    return record.kind, record.question, _weights(record.content.get("config", {}))


def _weights(config: Mapping) -> dict:
    """Return the options of a configuration that say which weights and heads are used."""
    model = config.get("model")
    return {"model": model.get("recipe") if isinstance(model, Mapping) else None,
            **{key: config.get(key) for key in ("pretrained", "finetuned", "heads")}}  # fmt: skip


def _configs(runs: Sequence[Run], folders: Sequence[str]) -> Iterator[DictConfig]:
    """Yield the configuration of each run; those that choose the same files are composed once, which takes long."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    for run in runs:
        overrides, problems = parse_overrides(run.options)
        raise_any(problems)
        choices = tuple(each.input_line for each in overrides if is_group(each.key_or_group))
        if choices not in composed:
            composed[choices] = compose_config([*search_path(folders), *choices])
        config = deepcopy(composed[choices])
        for each in overrides:
            if each.input_line not in choices:
                OmegaConf.update(config, each.key_or_group, each.value())
        for key, value in seed_options(run, config).items():
            OmegaConf.update(config, key, value)
        yield config
