"""The registry of tasks by name: those of the program, and those that a user adds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.data.demo import tasks as demo
from src.data.task import ClassName, Task
from src.data.vision import tasks as vision
from src.data.vision.dataset import ImageDataset
from src.data.vision.locate import DatasetLocation
from src.data.vision.spec import DatasetSpec
from src.errors import UserError, nearest, raise_any
from src.runtime.progress import SILENT, Progress
from src.validation import is_whole

Options = Mapping[str, Mapping]
KEYS = ("source", "templates", "classes", "patterns", "columns", "epochs")
EXAMPLES = {  # of the lists among them, as they are typed
    "templates": "\"tasks.{name}.templates=['a photo of a {{}}.']\"",
    "classes": "'tasks.{name}.classes=[cat,dog]'",
    "patterns": "'tasks.{name}.patterns=[data/*]'",
}


def find_tasks(names: Sequence[str], data: Path = Path("data"), options: Options | None = None) -> list[Task]:
    """Return the tasks of these names, in this order. No data is touched.

    data: the folder that datasets lie below.
    options: by task, `source` (a folder, or owner/name on the Hub), `templates`, `classes` (in label order) and
        `patterns`, `columns` (of parquet files: which, and what their image and label columns are called). A source
        makes a task of any name.

    Raise UserError for all that is unknown, repeated or malformed at once.
    """
    options = {name: task_options or {} for name, task_options in (options or {}).items()}
    demo_tasks = demo.tasks()
    all_names = [*demo_tasks, *vision.SPECS]
    unknown = [name for name in dict.fromkeys(names) if name not in all_names and not options.get(name, {}).get("source")]
    problems = [
        f"there is no task {name}; {_guess(name, all_names)} (tasks.{name}.source=FOLDER would make it one of your own)"
        for name in unknown
    ]
    problems += [
        f"task {name} is named {names.count(name)} times; name it once" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    for name, task_options in options.items():
        if name in names and name not in unknown:
            problems += _option_problems(name, task_options, demo_tasks)
        elif name not in (*names, *all_names) and not task_options.get("templates"):  # a whole task may wait for another run
            overrides = ", ".join(f"tasks.{name}.{key}" for key in task_options) or f"tasks.{name}"
            problems.append(f"{overrides}: there is no task {name} in this run; {_guess(name, names)}")
    raise_any(problems)
    return [_task(name, demo_tasks, data, options.get(name, {})) for name in names]


def require_data(
    tasks: Sequence[Task],
    download: bool,
    progress: Progress = SILENT,
) -> None:
    """Download the missing data of `tasks`, if `download`.

    Nothing is fetched while something is missing that only the user can bring.

    progress: listener, in bytes.

    Raise UserError with all that is still missing.
    """
    problems = {task.name: task.problems() for task in tasks}
    missing = [task for task in tasks if problems[task.name]]
    if not download or not all(task.is_fetchable for task in missing):
        raise_any(line for task in missing for line in problems[task.name] if not (download and task.is_fetchable))
    failures = []
    for task in missing:
        try:
            task.fetch(progress)
        except UserError as error:
            failures += error.problems
        else:
            failures += task.problems(was_fetched=True)
    raise_any(failures)


def _task(name: str, demo_tasks: Mapping[str, Task], data: Path, options: Mapping) -> Task:
    templates = options.get("templates")
    if name in demo_tasks:
        return replace(demo_tasks[name], templates=tuple(templates)) if templates else demo_tasks[name]
    spec = vision.SPECS.get(name) or DatasetSpec(name, ())
    classes, source = options.get("classes"), options.get("source")
    class_names = classes and tuple(map(_class_name, classes))
    location = DatasetLocation(spec, data, source and str(source), options.get("patterns"), options.get("columns"))
    return Task(name, tuple(templates or spec.templates), ImageDataset(spec, location, class_names))


def _class_name(value: object) -> ClassName:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _guess(name: str, names: Sequence[str]) -> str:
    """Return which of the names was probably meant, or all of them."""
    near = nearest(name, names)
    return f"did you mean {near}?" if near else f"choose among {', '.join(names)}"


def _option_problems(name: str, options: Mapping, demo_tasks: Mapping[str, Task]) -> list[str]:
    """Return sentences on the options of one task that are unknown or malformed."""
    problems = [f"a task has no option {key} (tasks.{name}.{key}=); {_guess(key, KEYS)}" for key in options if key not in KEYS]
    epochs = options.get("epochs")
    if epochs is not None and not is_whole(epochs, least=1):
        problems.append(f"tasks.{name}.epochs is a positive whole number, or null; got {epochs}")
    problems += [
        f"tasks.{name}.{key} is a list, as in {EXAMPLES[key].format(name=name)}; got {options[key]}"
        for key in EXAMPLES
        if options.get(key) is not None and not (isinstance(options[key], list | tuple) and options[key])
    ]
    columns = options.get("columns")
    if columns is not None and not (isinstance(columns, Mapping) and set(columns) <= {"image", "label"}):
        problems.append(f"tasks.{name}.columns names the columns as {{image: NAME, label: NAME}}; got {columns}")
    if name in demo_tasks:
        return problems + [
            f"task {name} is drawn and takes no {key}; give yours another name"
            for key in ("source", "classes")
            if options.get(key)
        ]
    templates = options.get("templates")
    if templates is None and name not in vision.SPECS:
        near = nearest(name, vision.SPECS)
        guess = f"; or did you mean {near}, which has prompts?" if near else ""
        problems.append(f"task {name} needs prompts, as in {EXAMPLES['templates'].format(name=name)}{guess}")
    if isinstance(templates, list | tuple):
        problems += [
            f"a prompt of task {name} has one {{}} for the class; got {line}" for line in templates if not _is_prompt(line)
        ]
    return problems


def _is_prompt(line: object) -> bool:
    return isinstance(line, str) and line.count("{}") == 1 and not set(line.replace("{}", "")) & {"{", "}"}
