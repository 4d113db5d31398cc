"""Experiments, config/experiment/NAME.yaml: a table as the runs that fill its cells.

    title: LiNeS, table 2
    published: LiNeS table 2      the name of the published table in src/reports/published.csv; null: none is known
    script: main.py               what runs; by default main.py
    with: [tasks=vision]          options of every run
    columns:                      axes with their labels, each the options that it stands for; a column for each pair
      model: {ViT-B/32: [model=ViT-B-32], ViT-L/14: [model=ViT-L-14]}
      tasks: {8 vision: [num_tasks=8], 14 vision: [num_tasks=14]}
    over: {target: {...}}         axes over which cells are means
    lower_is_better: [target_acc]  metrics of which the least is the best, beside bytes, seconds and errors
    figures: {abs_acc: merged}    metrics of the published table, and what is measured for each (src/reports/measures.py)
    unranked: [Zero-shot]         rows that are no competitors, and never the best
    left_out: {Pruning: why}      published rows that nothing here runs
    rows:                         methods as the published table calls them
      TIES + LiNeS: {run: [method=ties, method.apply_lines=True]}
      Fine-tuned: {run: [method=zeroshot], figures: {abs_acc: finetuned}}
      Average: {run: [method=average], only: {model: [ViT-B/32]}}   in these columns of an axis alone

`python main.py -m +experiment=NAME` runs what is missing, `python report.py experiment=NAME` shows the table.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from command_line.composition import ROOT, alternatives
from command_line.config import compose_config, config_folders
from command_line.overrides import parse_overrides, plain_or_quoted, quoted_text, typed_overrides
from src.errors import UserError, raise_any, suggestion
from src.runtime.untrusted import read_yaml
from src.validation import is_whole

FOLDER = ROOT / "config" / "experiment"
KEY = "experiment"
MAIN = "main.py"
SEED = "model.recipe.seed"
DECIDING = ("method", "normalise", "specify_lambda", "n_eval_points", "search", "statistics", "finetuning_mode", "model",
            "tasks", "num_tasks", "DATASETS", "eval_on", "bundle", "heads", "precision", "pretrained", "finetuned")  # fmt: skip
Options = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    options: of its runs.
    figures: what is measured for each published metric.
    only: the labels of the columns that it has, by axis; of other axes all.
    """

    name: str
    options: Options
    figures: Mapping[str, str]
    only: Mapping[str, Options] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run of an experiment.

    options: overrides of the script.
    column: the labels of its column, by axis.
    rows: the names of the rows that show it.
    seed: of fine-tuning; None where the experiment leaves it as it is.
    """

    options: Options
    column: Mapping[str, str]
    rows: tuple[str, ...]
    seed: int | None

    def __hash__(self) -> int:
        return hash((self.options, tuple(self.column.values()), self.seed))

    @property
    def name(self) -> str:
        """The rows and the column, for lines that say which run it is."""
        seed = [] if self.seed is None else [f"seed {self.seed}"]
        return ", ".join([" and ".join(self.rows), *self.column.values(), *seed])


@dataclass(frozen=True)
class Experiment:
    """A table; see above.

    columns, over: options by label, by axis.
    """

    name: str
    title: str
    published: str | None
    rows: tuple[Row, ...]
    script: str = MAIN
    options: Options = ()
    columns: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    over: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    lower_is_better: Options = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    unranked: Options = ()

    @classmethod
    def of(cls, name: str, node: Mapping) -> "Experiment":
        """Return the experiment that a yaml describes."""
        figures = node.get("figures") or {"abs_acc": "merged"}
        rows = tuple(Row(row, tuple(about["run"]), about.get("figures") or figures, about.get("only") or {})
                     for row, about in node["rows"].items())  # fmt: skip
        columns, over = ({axis: {label: tuple(options) for label, options in labels.items()}
                          for axis, labels in (node.get(key) or {}).items()} for key in ("columns", "over"))  # fmt: skip
        return cls(
            name,
            node["title"],
            node.get("published"),
            rows,
            node.get("script") or MAIN,
            tuple(node.get("with") or ()),
            columns,
            over,
            tuple(node.get("lower_is_better") or ()),
            node.get("left_out") or {},
            tuple(node.get("unranked") or ()),
        )

    def runs(self, seeds: Sequence[int] = ()) -> list[Run]:
        """Return the runs that fill the table, each once however many rows show it; each seed fine-tunes models of its own."""
        found: dict[tuple, Run] = {}
        for labels in itertools.product(*self.columns.values()):
            column = dict(zip(self.columns, labels))
            shown_rows = [row for row in self.rows if all(column[axis] in labels for axis, labels in row.only.items())]
            for seed, row in itertools.product(seeds or (None,), shown_rows):
                for others in itertools.product(*self.over.values()):
                    parts = [axis[label] for axis, label in zip(self.columns.values(), labels)]
                    parts += [axis[label] for axis, label in zip(self.over.values(), others)]
                    options = _combined((self.options, *parts, row.options))
                    place = (labels, options, seed)
                    shown = found[place].rows if place in found else ()
                    found[place] = Run(options, column, (*shown, row.name), seed)
        return list(found.values())

    def selected(self, typed: Sequence[str], seeds: Sequence[int] = ()) -> tuple[dict[int, Run], list[str]]:
        """Return the runs that a user asks for, by their number in `runs`, and those of his overrides that are options of all.

        typed: overrides. One of an option of the experiment leaves out the runs with other values (`method=sum,ties`), if
            there are any with its own; else it takes their place in all, unless it is an option of rows.

        Raise UserError for a value of an option of rows that no row has.
        """
        runs, narrowing, problems = self.runs(seeds), {}, []
        values = [{override.key_or_group: override.value() for override in parse_overrides(run.options)[0]} for run in runs]
        of_rows = {_key_and_value(option)[0] for row in self.rows for option in row.options}
        for override in parse_overrides(typed)[0]:
            key, wanted = override.key_or_group, alternatives(override)
            if any(each.get(key) in wanted for each in values):
                narrowing[override.input_line] = key, wanted
            elif key in of_rows:
                there = dict.fromkeys(str(each[key]) for each in values if key in each)
                problems.append(f"{override.input_line}: {self.name} has no row with it; its rows have {key}={', '.join(there)}")
        raise_any(problems)
        rest = [override for override in typed if override not in narrowing]
        replaced = dict(map(_key_and_value, rest))
        selected: dict[tuple, tuple[int, Run]] = {}
        for number, (run, own) in enumerate(zip(runs, values)):
            if all(own.get(key) in wanted for key, wanted in narrowing.values()):
                column = self._column(run, replaced)
                asked = replace(run, options=_combined((run.options, rest)), column=column)
                selected.setdefault((tuple(column.values()), asked.options, run.seed), (number, asked))
        return dict(selected.values()), rest

    def _column(self, run: Run, replaced: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of a run's column, with the user's values in place of those that he replaced."""
        keys = {axis: [_key_and_value(option)[0] for option in self.columns[axis][label]] for axis, label in run.column.items()}
        own = {axis: [replaced[key] for key in keys[axis] if key in replaced] for axis in keys}
        return {axis: ", ".join(own[axis]) or label for axis, label in run.column.items()}


def read_experiment(name: str, folders: Sequence[str] = ()) -> Experiment:
    """Return the experiment called so.

    folders: the user's, with further configurations.

    Raise UserError if there is none, or its file cannot be read.
    """
    from src.reports.measures import MEASURES  # which other commands have no need to wait for

    places = [FOLDER, *(Path(folder) / KEY for folder in folders)]
    path = next((file for place in places if (file := place / f"{name}.yaml").is_file()), None)
    if path is None:
        names = sorted(file.stem for place in places for file in place.glob("*.yaml"))
        raise UserError(f"there is no experiment {name}; {suggestion(name, names)}")
    try:
        experiment = Experiment.of(name, read_yaml(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no experiment ({error!r}); it needs a title, and rows with a run each") from error
    raise_any(
        f"{path}: row {row.name} is only in {axis}={label}, which is no column"
        for row in experiment.rows
        for axis, labels in row.only.items()
        for label in labels
        if label not in experiment.columns.get(axis, ())
    )
    figures = dict.fromkeys(figure for row in experiment.rows for figure in row.figures.values())
    raise_any(
        f"{path}: nothing measures {figure}; {suggestion(figure, MEASURES)}" for figure in figures if figure not in MEASURES
    )
    return experiment


def with_runs(arguments: Sequence[str], is_sweep: bool, folders: Sequence[str] = ()) -> list[str]:
    """Return a command line that names an experiment with a sweep over the numbers of its runs; any other as it is.

    folders: as in `read_experiment`.

    Raise UserError if there is no such experiment, or it is not started as a sweep.
    """
    named = [text for text in arguments if text.lstrip("+").startswith(f"{KEY}=")]
    seeds = [text for text in arguments if text.startswith("seeds=")]
    if not named:
        raise_any(f"{text}: seeds are of an experiment; for one fine-tuning set {SEED}" for text in seeds)
        return list(arguments)
    name = named[0].partition("=")[2]
    experiment = read_experiment(name, folders)
    if not is_sweep:
        raise UserError(f"an experiment is many runs: python main.py -m +experiment={name}")
    overrides = [text for text in arguments if not text.startswith("-") and text not in (*named, *seeds)]
    numbers, kept = experiment.selected(overrides, read_seeds(seeds))
    rest = [text for text in arguments if text.startswith("-") or text in kept]
    asked = [f"+{KEY}={name}", f"+{KEY}.run={','.join(map(str, numbers))}", *(f"+{KEY}.{text}" for text in seeds)]
    return [*rest, *asked]


def config_of_job(config: DictConfig) -> DictConfig | None:
    """Return the configuration of a job: of an experiment that of its run, None if another script has done it; else its own.

    Raise UserError if that script failed, having said why.
    """
    if KEY not in config:
        return config
    typed = [text for text in typed_overrides() if not text.lstrip("+").startswith((f"{KEY}=", f"{KEY}."))]
    folders, seeds = config_folders(), config[KEY].get("seeds") or ()
    experiment = read_experiment(_choice(), folders)
    run = experiment.runs(seeds)[config[KEY].run]
    print(f"{experiment.name}: {run.name}", flush=True)
    options = [*search_path(folders), *_combined((["skip_done=true"], run.options, typed))]
    options += [f"{key}={plain_or_quoted(str(value))}" for key, value in seed_options(run, compose_config(options)).items()]
    if experiment.script == MAIN:
        return compose_config(options)
    if subprocess.run([sys.executable, str(ROOT / experiment.script), *options]).returncode:
        raise UserError([])
    return None


def seed_options(run: Run, config: DictConfig) -> dict[str, object]:
    """Return the options of a run's seed, whose weights have a folder of their own; none for the seed of the recipe itself.

    config: of the run but for its seed.
    """
    if run.seed in (None, OmegaConf.select(config, SEED)):
        return {}
    return {SEED: run.seed, "model_location": str(Path(config.model_location) / f"seed_{run.seed}")}


def decides(override: str) -> bool:
    """Whether an override changes what a run measures, rather than where files are or how fast it is."""
    return _key_and_value(override)[0].split(".")[0] in DECIDING


def is_group(key: str) -> bool:
    """Whether an option chooses one of the files of a group, as `method=ties` does."""
    return "@" in key or (ROOT / "config" / key).is_dir()


def search_path(folders: Sequence[str]) -> list[str]:
    """Return the override that lets a configuration be composed of the user's folders, too."""
    files = [f"file://{os.path.abspath(folder.removeprefix('file://'))}" for folder in folders]
    return [f"hydra.searchpath=[{','.join(map(quoted_text, files))}]"] if files else []


def _choice() -> str:
    """Return the name of the experiment that this job is of."""
    (text,) = (text for text in typed_overrides() if text.lstrip("+").startswith(f"{KEY}="))
    return text.partition("=")[2]


def read_seeds(texts: Sequence[str]) -> list[int]:
    """Return the seeds that a user typed, `seeds=[0,1,2]`. Raise UserError for anything else."""
    seeds = []
    for override in parse_overrides(texts)[0]:
        value = override.value()
        seeds = value if isinstance(value, list) else [value]
    if texts and not (seeds and all(is_whole(seed) for seed in seeds) and len(set(seeds)) == len(seeds)):
        raise UserError(f"seeds lists whole numbers, as in 'seeds=[0,1,2]'; got {texts[0].partition('=')[2]}")
    return seeds


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _combined(parts: Iterable[Sequence[str]]) -> Options:
    """Return the options of all parts; of those with one key the last stays."""
    last = {_key_and_value(option)[0]: option for part in parts for option in part}
    return tuple(last.values())
