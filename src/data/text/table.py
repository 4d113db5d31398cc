"""The table of text tasks: the papers' datasets, and a user's own."""

from collections.abc import Mapping
from pathlib import Path

from src.data.splits import LastRows
from src.data.table import Options, epochs_problems, list_problems
from src.data.text.dataset import RowDataset
from src.data.text.locate import locate
from src.data.text.promptsource import read_templates
from src.data.text.spec import TextSpec
from src.data.text.specs import SPECS
from src.data.text.task import TextTask
from src.data.text.templates import BARS, Template
from src.data.text.wording import TemplateWording
from src.errors import UserError, collect
from src.runtime.files import expand_path
from src.validation import is_whole

PROMPTS = Path(__file__).with_name("prompts")
HELD_OUT = 1000  # of a user's own rows

EXAMPLES = {  # of options that are lists, as they are typed
    "templates": "tasks.{name}.templates=TEMPLATES.yaml",
    "choices": "'tasks.{name}.choices=[yes,no]'",
    "patterns": "'tasks.{name}.patterns=[data/*]'",
}


class TextTasks:
    """Text tasks whose rows lie below a folder.

    Options: `source` (a folder, or owner/name on the Hub), `templates` (a list of `input ||| target` in Jinja, or a file as
    promptsource writes them), `choices` (of such a list: the answers to choose among, in Jinja; none where answers are
    generated), `patterns` and `columns` (which files, and what columns are called in them), `validation` (how many of the
    last training rows are for it).

    prompts: a folder of promptsource's templates, instead of this program's own wording.
    """

    names = tuple(SPECS)
    keys = ("source", "templates", "choices", "patterns", "columns", "validation", "epochs")

    def __init__(self, data: Path, prompts: Path | None = None):
        self._data, self._prompts = data, prompts

    def is_own(self, options: Options) -> bool:
        templates = options.get("templates")
        lines = templates if isinstance(templates, list | tuple) else ()
        is_jinja = any(BARS in str(line) or "{{" in str(line) for line in lines)  # a prompt for images has no two braces
        return bool(options.get("source")) and (isinstance(templates, str) or "choices" in options or is_jinja)

    def problems(self, name: str, options: Options) -> list[str]:
        templates, columns = options.get("templates"), options.get("columns")
        lists = {key: example for key, example in EXAMPLES.items() if key != "templates" or not isinstance(templates, str)}
        problems = list_problems(name, options, lists) + epochs_problems(name, options)
        if columns is not None and not (isinstance(columns, Mapping) and all(isinstance(to, str) for to in columns.values())):
            problems.append(f"tasks.{name}.columns is {{NAME IN TEMPLATES: NAME IN FILES}}; got {columns}")
        if options.get("validation") is not None and not is_whole(options["validation"], least=1):
            problems.append(f"tasks.{name}.validation is a number of rows, at least 1; got {options['validation']}")
        if templates is None and name not in SPECS:
            problems.append(f"task {name} needs templates; give tasks.{name}.templates=, as config/tasks/p3_eight_qa.yaml says")
        if options.get("choices") and not isinstance(templates, list | tuple):
            problems.append(f"tasks.{name}.choices goes with a list of templates; give tasks.{name}.templates=[...]")
        if isinstance(templates, list | tuple):
            problems += [
                f"a template of task {name} is `input {BARS} target`; got {line}" for line in templates if BARS not in str(line)
            ]
        if not problems and (templates is not None or self._prompts):
            with collect(problems):
                _ = self._wording(name, options).columns
        return problems

    def task(self, name: str, options: Options) -> TextTask:
        spec, source = SPECS.get(name), options.get("source")
        wording = self._wording(name, options)
        location = locate(name, self._data, spec, source and str(source), options.get("patterns"), options.get("columns"))
        pinned = [copy.folder(self._data) for copy in spec.copies] if spec and not source else []
        rows = RowDataset(name, location, wording, spec.sizes if spec else {}, pinned)
        held_out = options.get("validation") or (spec.held_out if spec else HELD_OUT)
        return TextTask(name, rows, wording, split_rule=LastRows(held_out))

    def _wording(self, name: str, options: Options) -> TemplateWording:
        spec, templates = SPECS.get(name), options.get("templates")
        if isinstance(templates, list | tuple):
            choices = f" {BARS} ".join(map(str, options.get("choices") or ())) or None
            lines = [Template(str(number), str(line), choices) for number, line in enumerate(templates)]
            return TemplateWording(name, lines, spec and spec.label, spec and spec.references)
        metrics, ignored = (spec.metrics, spec.ignored) if spec else (None, ())
        path = expand_path(templates) if templates else self._file(spec)
        notes = [f"{name}: its wording is this program's own, so figures are not the papers'"] if path.parent == PROMPTS else []
        kept = read_templates(path, metrics, ignored)
        return TemplateWording(name, kept, spec and spec.label, spec and spec.references, notes)

    def _file(self, spec: TextSpec) -> Path:
        """Return the file of a published task's templates. Raise UserError if a folder is given that has none."""
        if self._prompts is None:
            return PROMPTS / f"{spec.name}.yaml"
        path = self._prompts / spec.prompts / "templates.yaml"
        if not path.is_file():
            raise UserError(
                f"prompts_location={self._prompts} has no {spec.prompts}/templates.yaml, for task {spec.name}; "
                f"give the folder `templates` of promptsource"
            )
        return path
