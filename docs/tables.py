"""Write the tables of README.md and docs/*.md anew: results from the records in docs/records, methods from config/.

    python docs/tables.py          write them
    python docs/tables.py --check  fail if one is not as it would be written

A table stands between `<!-- table: NAME ... -->` and `<!-- end -->`, where NAME is `report`, with what report.py takes,
`printed`, with the name of a record, or one of `methods`, `experiments` and `models`.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

RECORDS = ROOT / "docs" / "records"
BLOCK = re.compile(r"(<!-- table: (?P<name>\w+)(?P<arguments>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(text: str) -> str:
    """Return a page with its tables as they are to be."""

    def table(match: re.Match) -> str:
        return f"{match[1]}\n{TABLES[match['name']](match['arguments'].split()).strip()}\n\n{match[4]}"

    return BLOCK.sub(table, text)


def report(arguments: list[str]) -> str:
    """Return the table of a report without its title, and the sentences below it."""
    from command_line.report_request import Request, grids_of
    from src.reports.grid import markdown

    grids, _, _ = grids_of(Request.of([f"results_dir={RECORDS}", *arguments]))
    return "\n\n".join(markdown(grid).partition("\n\n")[2] for grid in grids)


def printed(arguments: list[str]) -> str:
    """Return the first rows and the last of the table that the run with this record printed: its name."""
    record = json.loads((RECORDS / f"{arguments[0]}.json").read_text())
    columns = {"zeroshot": "zero-shot", "finetuned": "fine-tuned", "merged": "merged", "normalised": "normalised"}

    def accuracy(score: dict | float) -> str:
        return f"{100 * (score['accuracy'] if isinstance(score, dict) else score):.1f}"

    rows = [[task, *(accuracy(scores[name]) for name in columns)] for task, scores in list(record["test"].items())[:2]]
    means = (record["means"][name] for name in columns)
    last = ["mean", *(f"{100 * mean['mean']:.1f} ± {100 * mean['half_width_95']:.1f}" for mean in means)]
    return _table(["task", *columns.values()], [*rows, ["..."] + [""] * len(columns), last])


def methods(_: list[str]) -> str:
    """Return the methods with what they need and their options, from config/method."""
    from command_line.build import build_method
    from command_line.config import compose_config
    from src.errors import UserError
    from src.experiments.titles import STEPS

    rows = []
    for path in sorted((ROOT / "config" / "method").glob("*.yaml"), key=lambda path: path.stem.lower()):
        node = OmegaConf.to_container(OmegaConf.load(path))
        if "_target_" not in node:
            continue  # another name of a method
        config, steps = compose_config([f"method={path.stem}"]), []
        method = build_method(config)
        for step, title in STEPS.items():
            with suppress(UserError):
                build_method(OmegaConf.merge(config, {"method": {f"apply_{step}": True}}))
                steps.append(title)
        module, _, name = node["_target_"].rpartition(".")
        about = inspect.getdoc(getattr(import_module(module), name)).split("\n\n")[0].replace("\n", " ")
        options = [f"`{key}={_written(value)}`" for key, value in node.items()
                   if key not in ("_target_", "defaults", "grid") and not isinstance(value, dict)]  # fmt: skip
        kind = "a model a task" if method.per_task else "one model"
        rows.append([f"`{path.stem}`", about, kind, ", ".join(steps), ", ".join(method.needs), ", ".join(options)])
    return _table(["`method=`", "what it is", "makes", "with", "statistics", "options (`method.NAME=`)"], rows)


def experiments(_: list[str]) -> str:
    """Return the experiments with how many runs they have, from config/experiment."""
    from command_line.experiments import FOLDER, read_experiment

    rows = []
    for path in sorted(FOLDER.glob("*.yaml")):
        experiment, about = read_experiment(path.stem), path.read_text().split("\n\n")[0].split("\ntitle:")[0]
        sentence = " ".join(line.removeprefix("# ") for line in about.splitlines())
        published = "yes" if experiment.published else ""
        rows.append([f"`{path.stem}`", sentence, str(len(experiment.runs())), published])
    return _table(["`+experiment=`", "what it is", "runs", "published figures"], rows)


def models(_: list[str]) -> str:
    """Return the models, from config/model."""
    rows = []
    for path in sorted((ROOT / "config" / "model").glob("*.yaml"), key=lambda path: path.stem.lower()):
        first = path.read_text().splitlines()[0]
        rows.append([f"`{path.stem}`", first.removeprefix("# ") if first.startswith("#") else ""])
    return _table(["`model=`", "what it is"], rows)


TABLES: dict[str, Callable[[list[str]], str]] = {
    "report": report,
    "printed": printed,
    "methods": methods,
    "experiments": experiments,
    "models": models,
}


def _table(headings: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _written(value: object) -> str:
    if isinstance(value, list | dict):
        return str(value).replace("'", "").replace(" ", "")
    return "null" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a table is stale")
    is_check, stale = parser.parse_args().check, []
    for path in pages():
        text = path.read_text()
        if (new := with_tables(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if not is_check:
                path.write_text(new)
    if stale and is_check:
        sys.exit(f"tables are stale in {', '.join(stale)}; run python docs/tables.py")


if __name__ == "__main__":
    main()
