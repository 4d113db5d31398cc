"""The wording of a task: its templates, and which of their choices is right."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.data.readers.tables import Row
from src.data.text.examples import TextExample
from src.data.text.metering import TemplateFault
from src.data.text.spec import Field
from src.data.text.templates import LONGEST_VALUE, Template
from src.errors import UserError, raise_any, shorten


@dataclass(frozen=True)
class TemplateWording:
    """The wording of a task by templates.

    task: its name, for sentences.
    label: the index of a row's right choice; None where it is that of the target.
    references: the answers that count as right where answers are generated; None for the target alone.
    notes: sentences on how it differs from the papers'.
    """

    task: str
    templates: Sequence[Template]
    label: Field | None = None
    references: Field | None = None
    notes: Sequence[str] = ()

    def __post_init__(self):
        if len({template.choices is None for template in self.templates}) > 1:
            raise UserError(f"task {self.task} has templates with choices and others without; give all or none of them choices")

    @property
    def is_generated(self) -> bool:
        return self.templates[0].choices is None

    @property
    def facts(self) -> list:
        return [[template.name, template.jinja, template.choices] for template in self.templates]

    @property
    def columns(self) -> list[str]:
        """The columns that it reads, sorted. Raise UserError for all templates that cannot be read, and if there are none."""
        columns, problems = {field.column for field in (self.label, self.references) if field}, []
        for template in self.templates:
            try:
                columns |= template.variables
            except TemplateFault as fault:
                problems.append(f"the template {template.name} of task {self.task} {fault}; correct it")
        if not columns and not problems:
            problems.append(f"the templates of task {self.task} read no column; name columns as {{{{NAME}}}}")
        raise_any(problems)
        return sorted(columns)

    def __len__(self) -> int:
        return len(self.templates)

    def example(self, row: Row, template: int) -> TextExample:
        """Return a row in the words of a template. Raise UserError if that makes no input and target, or no label."""
        chosen = self.templates[template]
        try:
            parts, choices = chosen.render(row)
            if len(parts) != 2:
                raise TemplateFault(f"makes {len(parts)} parts of a row, and not an input and a target with ||| between them")
            prompt, target = parts
            label = self._label(row, target, choices) if choices else None
        except TemplateFault as fault:
            shown = shorten([dict(row)])
            raise UserError(f"the template {chosen.name} of task {self.task} {fault}; correct it, or the row {shown}") from fault
        if choices:
            return TextExample(prompt, target, choices, label)
        return TextExample(prompt, target, references=tuple(self.references(row)) if self.references else (target,))

    def _label(self, row: Row, target: str, choices: Sequence[str]) -> int:
        if self.label is None:
            if target not in choices:
                raise TemplateFault(f"has the target {shorten([target])}, which is none of the choices {shorten(choices, 9)}")
            return choices.index(target)
        try:
            label = self.label(row)
            answer = choices[label] if label >= 0 else None
        except (TypeError, ValueError, LookupError):
            answer = None
        if answer is None:
            raise TemplateFault(f"has {len(choices)} choices, of which a row's label names none")
        if target != answer and len(answer) <= LONGEST_VALUE:
            raise TemplateFault(f"has the target {shorten([target])}, where the label says {shorten([answer])}")
        return label
