"""Files of templates as promptsource writes them."""

from collections.abc import Collection, Sequence
from pathlib import Path

from src.data.text.templates import BARS, Template
from src.errors import UserError
from src.runtime.untrusted import read_yaml

TAGS = ("!Template", "!TemplateMetadata")
REMEDY = "correct it, or get it again"


def read_templates(path: Path, metrics: Collection[str] | None = None, ignored: Collection[str] = ()) -> tuple[Template, ...]:
    """Return the templates of a file that are of the task as it was published, in the order of the file.

    metrics: where given, all that a template may name.
    ignored: names of templates to leave out.

    Raise UserError if the file is none of promptsource's, or if none of its templates is left.
    """
    try:
        content = read_yaml(path, TAGS)
    except OSError as error:
        raise UserError(f"the templates {path} cannot be opened ({error.strerror}); name a file of promptsource's") from error
    entries = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path} is no file of promptsource's, which has `templates:` with one entry each; {REMEDY}")
    kept = [_template(entry, path) for entry in entries.values() if _is_kept(entry, metrics) and entry.get("name") not in ignored]
    if not kept:
        wanted = f" and has no metric but {' or '.join(metrics)}" if metrics else ""
        raise UserError(f"{path} has no template that is of the original task{wanted}; name another file")
    return tuple(kept)


def _is_kept(entry: dict, metrics: Collection[str] | None) -> bool:
    """Whether a template asks for what the dataset was made for, and is scored by no other metrics."""
    metadata = entry.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("original_task") is not True:
        return False
    own = metadata.get("metrics") or ()
    return metrics is None or (isinstance(own, Sequence) and all(metric in metrics for metric in own))


def _template(entry: dict, path: Path) -> Template:
    name, jinja, choices = (entry.get(key) for key in ("name", "jinja", "answer_choices"))
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):  # as early versions have them
        choices = f" {BARS} ".join(choices)
    if not (isinstance(name, str) and isinstance(jinja, str) and isinstance(choices, str | None)):
        raise UserError(f"{path} has a template ({name}) whose name, jinja or answer_choices is no text; {REMEDY}")
    return Template(name, jinja, choices or None)
