"""The registry of tasks by name: those of the program, and those that a user adds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.data.demo import tasks as drawn
from src.data.table import BundledTasks, Options, TaskTable
from src.data.task import Task
from src.data.text.demo import tasks as written
from src.data.text.table import TextTasks
from src.data.vision.table import EXAMPLES, ImageTasks
from src.data.vision.table import KEYS as IMAGE_KEYS
from src.errors import UserError, raise_any, suggestion
from src.runtime.progress import SILENT, Progress

TasksOptions = Mapping[str, Options]  # by task


def task_tables(data: Path, prompts: Path | None = None) -> list[TaskTable]:
    """Return all tables of tasks; a task that a user adds belongs to the first that takes it as its own.

    data: the folder that datasets lie below.
    prompts: a folder of templates, instead of the program's own.
    """
    return [
        BundledTasks(drawn.tasks, "drawn", IMAGE_KEYS, {"templates": EXAMPLES["templates"]}, ("source", "classes")),
        BundledTasks(written.tasks, "written", ("epochs",)),
        TextTasks(data, prompts),
        ImageTasks(data),
    ]


def find_tasks(
    names: Sequence[str], data: Path = Path("data"), options: TasksOptions | None = None, prompts: Path | None = None
) -> list[Task]:
    """Return the tasks of these names, in this order. No data is touched.

    data, prompts: as in `task_tables`.
    options: by task, those of its table; some make a task of any name.

    Raise UserError for all that is unknown, repeated or malformed at once.
    """
    options = {name: task_options or {} for name, task_options in (options or {}).items()}
    tables = task_tables(data, prompts)
    all_names = [name for table in tables for name in table.names]
    table_of = {name: _table_of(name, options.get(name, {}), tables) for name in names}
    problems = [
        f"there is no task {name}; {suggestion(name, all_names)} (tasks.{name}.source=FOLDER would make it one of your own)"
        for name, table in table_of.items()
        if table is None
    ]
    problems += [
        f"task {name} is named {names.count(name)} times; name it once" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    for name, task_options in options.items():
        if table := table_of.get(name):
            problems += _unknown_keys(name, task_options, table) + table.problems(name, task_options)
        elif name not in names and name not in all_names and not task_options.get("templates"):  # one's own may wait for a run
            overrides = ", ".join(f"tasks.{name}.{key}" for key in task_options) or f"tasks.{name}"
            problems.append(f"{overrides}: there is no task {name} in this run; {suggestion(name, names)}")
    raise_any(problems)
    return [table_of[name].task(name, options.get(name, {})) for name in names]


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


def _table_of(name: str, options: Options, tables: Sequence[TaskTable]) -> TaskTable | None:
    return next((table for table in tables if name in table.names), None) or next(
        (table for table in tables if table.is_own(options)), None
    )


def _unknown_keys(name: str, options: Options, table: TaskTable) -> list[str]:
    return [
        f"a task has no option {key} (tasks.{name}.{key}=); {suggestion(key, table.keys)}"
        for key in options
        if key not in table.keys
    ]
