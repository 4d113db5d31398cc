"""Every task the program knows, by name, and those that a user names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.data.demo import tasks as demo
from src.data.task import Name, Task
from src.data.vision import tasks as vision
from src.data.vision.dataset import ImageDataset
from src.data.vision.locate import DatasetLocation
from src.data.vision.spec import DatasetSpec
from src.errors import UserError, raise_any
from src.runtime.progress import SILENT, Progress

Options = Mapping[str, Mapping]
KEYS = ("source", "templates", "classes", "patterns", "columns", "epochs")


def find_tasks(names: Sequence[str], data: Path = Path("data"), options: Options | None = None) -> list[Task]:
    """Return the tasks of these names, in this order. No data is touched.

    data: the folder that their data is below.
    options: by task, `source` (a folder, or owner/name on the Hub), `templates`, `classes` (in label order) and
        `patterns`, `columns` (of parquet files: which, and what their image and label columns are called). A source
        makes a task of any name.

    Raise UserError for all that is unknown, repeated or malformed at once.
    """
    options = {name: chosen or {} for name, chosen in (options or {}).items()}
    drawn, known = demo.tasks(), [*demo.tasks(), *vision.ROWS]
    problems = [
        f"there is no task {name}; the tasks are {', '.join(known)}; or give a folder of your own with tasks.{name}.source="
        for name in dict.fromkeys(names)
        if name not in known and not options.get(name, {}).get("source")
    ]
    problems += [f"task {name} is named {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1]
    for name, chosen in options.items():
        if name in names:
            problems += _malformed(name, chosen, drawn)
        elif name not in known and not chosen.get("templates"):  # a whole task of the user's may wait for another run
            said = ", ".join(f"tasks.{name}.{key}" for key in chosen) or f"tasks.{name}"
            problems.append(f"{said} is given, but there is no task {name} in this run, which has {', '.join(names)}")
    raise_any(problems)
    return [_task(name, drawn, data, options.get(name, {})) for name in names]


def require_data(
    tasks: Sequence[Task],
    download: bool,
    progress: Progress = SILENT,
) -> None:
    """Fetch what is missing, if `download`.

    Nothing is fetched while something is missing that only the user can bring.

    progress: listener, told in bytes.

    Raise UserError with all that is missing then.
    """
    problems = {task.name: task.problems() for task in tasks}
    missing = [task for task in tasks if problems[task.name]]
    if not download or not all(task.fetchable for task in missing):
        raise_any(line for task in missing for line in problems[task.name] if not (download and task.fetchable))
    failures = []
    for task in missing:
        try:
            task.fetch(progress)
        except UserError as reason:
            failures += reason.problems
        else:
            failures += task.problems(fetched=True)
    raise_any(failures)


def _task(name: str, drawn: Mapping[str, Task], data: Path, options: Mapping) -> Task:
    if name in drawn:
        return replace(drawn[name], templates=tuple(options["templates"])) if options.get("templates") else drawn[name]
    spec = vision.ROWS.get(name) or DatasetSpec(name, ())
    given, source = options.get("classes"), options.get("source")
    classes = given and tuple(_name(each) for each in given)
    where = DatasetLocation(spec, data, source and str(source), options.get("patterns"), options.get("columns"))
    example_source = ImageDataset(spec, where, classes)
    return Task(name, tuple(options.get("templates") or spec.templates), example_source)


def _name(given: object) -> Name:
    return tuple(map(str, given)) if isinstance(given, list | tuple) else str(given)


def _malformed(name: str, options: Mapping, drawn: Mapping[str, Task]) -> list[str]:
    found = [f"a task has no option {key} (tasks.{name}.{key}=); it has {', '.join(KEYS)}" for key in options if key not in KEYS]
    found += [
        f"tasks.{name}.{key} is a list; got {options[key]}"
        for key in ("templates", "classes", "patterns")
        if options.get(key) is not None and not (isinstance(options[key], list | tuple) and options[key])
    ]
    columns = options.get("columns")
    if columns is not None and not (isinstance(columns, Mapping) and set(columns) <= {"image", "label"}):
        found.append(f"tasks.{name}.columns names the columns as {{image: NAME, label: NAME}}; got {columns}")
    if name in drawn:
        return found + [
            f"task {name} is drawn and takes no {key}; give yours another name"
            for key in ("source", "classes")
            if options.get(key)
        ]
    templates = options.get("templates")
    if templates is None and name not in vision.ROWS:
        found.append(f"task {name} needs prompts, such as 'tasks.{name}.templates=[\"a photo of a {{}}.\"]'")
    if isinstance(templates, list | tuple):
        found += [f"a prompt of task {name} has one {{}} for the class; got {line}" for line in templates if not _prompt(line)]
    return found


def _prompt(line: object) -> bool:
    return isinstance(line, str) and line.count("{}") == 1 and not set(line.replace("{}", "")) & {"{", "}"}
