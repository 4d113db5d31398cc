"""The table of an experiment, from the records of its runs; and tables of whatever records there are."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from command_line.config import compose_config, merge_question, setting
from command_line.experiments import MAIN, SEED, Experiment, Run, decides, is_group, search_path, seed_options
from command_line.overrides import parse_overrides
from src.errors import plural, raise_any
from src.reports.grid import Cell, Grid
from src.reports.measures import mean_of, measure, over_seeds
from src.reports.published import NOT_RUN, Verdict, published_table, verdict_on
from src.reports.records import Record
from src.reports.significance import LEVEL, paired_p_value

KINDS = {"eval_task_negation.py": "negation", "eval_disentanglement.py": "disentanglement", "eval_single_task.py": "single_task"}


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
                    verdict = verdict_on(figure, theirs, measured, changes) if figure else Verdict(NOT_RUN)
                cells.append(Cell(row.name, ", ".join(column.values()), metric, figure, theirs, verdict))
    shown = {(", ".join(run.column.values()), row): found[run] for run in runs for row in run.rows}
    cells = _with_ties(cells, experiment, shown)
    missing = sum(record is None for record in found.values())
    notes = list(_notes(experiment, cells, found, missing))
    return Grid(experiment.title, cells, notes, experiment.lower_is_better)


def _with_ties(cells: Sequence[Cell], experiment: Experiment, records: Mapping[tuple[str, str], Record | None]) -> list[Cell]:
    """Return the cells of merged accuracies with a mark on those that a paired test does not tell from their column's best."""
    shows_merged = {(row.name, metric) for row in experiment.rows for metric, name in row.figures.items() if name == "merged"}
    ranks, marked = Grid("", cells).ranks(), []
    best = {(column, metric): row for (row, column, metric), rank in ranks.items() if rank == 0}
    for cell in cells:
        leader = best.get((cell.column, cell.metric))
        pair = [records.get((cell.column, row)) for row in (cell.row, leader)]
        is_judged = cell.figure and cell.row != leader and (cell.row, cell.metric) in shows_merged and None not in pair
        value = paired_p_value(*pair) if is_judged and cell.figure.spread is None else None
        marked.append(replace(cell, ties_best=value is not None and value >= LEVEL))
    return marked


def _notes(experiment: Experiment, cells: Sequence[Cell], found: Mapping[Run, Record | None], missing: int) -> Iterable[str]:
    """Yield what is to be said below the table of an experiment."""
    if missing:
        command = f"python main.py -m +experiment={experiment.name}"
        yield f"{missing} of {plural(len(found), 'run')} {'is' if missing == 1 else 'are'} not there yet; {command} runs them"
    benchmarks = sorted({record.content.get("benchmark", "unknown") for record in found.values() if record})
    if benchmarks:
        yield f"benchmark: {', '.join(benchmarks)}" + (" (not to be compared with one another)" if len(benchmarks) > 1 else "")
    if any(cell.ties_best for cell in cells):
        yield f"≈: not told from the best by a paired test on the same examples, at {LEVEL:.0%}"
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
    asked = [(_question(experiment.script, config), OmegaConf.select(config, SEED)) for config in _configs(runs, folders)]
    return [next((record for record in newest if _is_of(record, experiment.script, *each)), None) for each in asked]


def _is_of(record: Record, script: str, question: Mapping, seed: int) -> bool:
    """Whether a record is of a run with these options, fine-tuned from this seed."""
    if record.kind != KINDS.get(script, "merge") or record.config("model", "recipe", "seed") != seed:
        return False
    if script == MAIN:
        return record.question == question
    # what else is asked there is the script's own; of the tasks one may be the control
    same = all(record.question.get(key) == question[key] for key in ("model", "finetuning_mode", "precision"))
    return same and set(question["tasks"]) <= set(record.question.get("tasks", ()))


def _question(script: str, config: DictConfig) -> dict:
    """Return the options that decide a run's result, as its record has them."""
    from command_line.build import build_method  # with torch
    from command_line.preflight import selected_tasks

    own = merge_question(config, build_method(config).needs) if script == MAIN else {}
    return json.loads(json.dumps({**setting(config, [task.name for task in selected_tasks(config)]), **own}))


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
