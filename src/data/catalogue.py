"""Every task the program knows, by name."""

from collections.abc import Sequence

from src.data import demo
from src.data.task import Task
from src.errors import UserError


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, in this order. Raises UserError for unknown or repeated names."""
    known = demo.tasks()
    problems = [f"there is no task {name}; the tasks are {', '.join(known)}" for name in names if name not in known]
    problems += [f"task {name} is named {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise UserError(problems)
    return [known[name] for name in names]
