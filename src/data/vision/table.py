"""The table of image classification tasks: the papers' datasets, and a user's own."""

from collections.abc import Mapping
from pathlib import Path

from src.data.class_names import ClassName
from src.data.table import Options, epochs_problems, list_problems
from src.data.vision.dataset import ImageDataset
from src.data.vision.locate import locate
from src.data.vision.spec import DatasetSpec
from src.data.vision.task import ImageTask
from src.data.vision.tasks import SPECS
from src.errors import nearest

KEYS = ("source", "templates", "classes", "patterns", "columns", "epochs")
EXAMPLES = {  # of the lists among them, as they are typed
    "templates": "\"tasks.{name}.templates=['a photo of a {{}}.']\"",
    "classes": "'tasks.{name}.classes=[cat,dog]'",
    "patterns": "'tasks.{name}.patterns=[data/*]'",
}


class ImageTasks:
    """Image classification tasks whose data lies below a folder.

    Options: `source` (a folder, or owner/name on the Hub), `templates`, `classes` (in label order) and `patterns`,
    `columns` (of parquet files: which, and what their image and label columns are called).
    """

    names, keys = tuple(SPECS), KEYS

    def __init__(self, data: Path):
        self._data = data

    def is_own(self, options: Options) -> bool:
        return bool(options.get("source"))

    def problems(self, name: str, options: Options) -> list[str]:
        problems = epochs_problems(name, options) + list_problems(name, options, EXAMPLES)
        columns, templates = options.get("columns"), options.get("templates")
        if columns is not None and not (isinstance(columns, Mapping) and set(columns) <= {"image", "label"}):
            problems.append(f"tasks.{name}.columns names the columns as {{image: NAME, label: NAME}}; got {columns}")
        if templates is None and name not in SPECS:
            near = nearest(name, SPECS)
            guess = f"; or did you mean {near}, which has prompts?" if near else ""
            problems.append(f"task {name} needs prompts, as in {EXAMPLES['templates'].format(name=name)}{guess}")
        if isinstance(templates, list | tuple):
            problems += [
                f"a prompt of task {name} has one {{}} for the class; got {line}" for line in templates if not _is_prompt(line)
            ]
        return problems

    def task(self, name: str, options: Options) -> ImageTask:
        spec = SPECS.get(name) or DatasetSpec(name, ())
        classes, source = options.get("classes"), options.get("source")
        class_names = classes and tuple(map(_class_name, classes))
        columns = options.get("columns") or {}
        location = locate(spec, self._data, source and str(source), options.get("patterns"), columns)
        dataset = ImageDataset(spec, location, class_names, columns)
        return ImageTask(name, dataset, tuple(options.get("templates") or spec.templates))


def _class_name(value: object) -> ClassName:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_prompt(line: object) -> bool:
    return isinstance(line, str) and line.count("{}") == 1 and not set(line.replace("{}", "")) & {"{", "}"}
