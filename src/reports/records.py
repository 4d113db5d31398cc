"""The records of results in a folder: those that can be read, and a sentence on each of the others."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from src.errors import UserError
from src.experiments.questions import without_usual
from src.experiments.record import FORMAT
from src.runtime.untrusted import read_json

# Of a record's configuration, what decides its result beside its question: which weights, heads and data there are.
DECIDING = ("model", "finetuning_mode", "tasks", "heads", "pretrained", "finetuned", "model_location", "data_location")
NO_DATA, UNLABELLED = "none", "unlabelled"
KINDS: dict[str, type | tuple[type, ...]] = {  # of what tables read of a record, where it has it
    "kind": str, "name": str, "benchmark": str, "question": dict, "config": dict, "choices": dict, "lineage": dict, "test": dict,
    "means": dict, "summary": dict, "storage": (dict, type(None)), "bytes_stored": int, "seconds": (int, float),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Record:
    """A record as it was read, and its file."""

    path: Path
    content: Mapping

    @property
    def kind(self) -> str:
        """The experiment that it is of; of the records of the first versions, which do not say, "merge"."""
        return self.content.get("kind", "merge")

    @cached_property
    def question(self) -> Mapping:
        """The options that decide the measurements, `without_usual` ones."""
        return without_usual(self.content["question"])

    @property
    def data(self) -> str:
        """What data its method used beside models (see `data_of`)."""
        return data_of(self.content)

    def config(self, *keys: str) -> object:
        """Return an option of its configuration, whose groups are named one by one; None if it has none."""
        node = self.content.get("config")
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node


def data_of(content: Mapping) -> str:
    """Return what a merge's vector is made of beside models: `none`, or examples, as in `unlabelled test`, `labelled val`.

    Earlier records do not say it: of statistics that may be of labels, the worse is taken.
    """
    if isinstance(content.get("data"), str):
        return content["data"]
    question = content.get("question")
    statistics = question.get("statistics") if isinstance(question, Mapping) else None
    if not isinstance(statistics, Mapping):
        return NO_DATA
    is_unlabelled = content.get("uses_gradients") is False or statistics.get("labels") in ("true", "expected")
    return f"{UNLABELLED if is_unlabelled else 'labelled'} {statistics.get('split')}"


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the records in a folder, by name, and a sentence on each json that is none that can be shown."""
    records, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
        except (UserError, OSError) as error:
            problems.append(f"left out: {error}")
            continue
        if problem := _problem(content):
            problems.append(f"left out: {path} {problem}")
        else:
            records.append(Record(path, content))
    return records, problems


def find_record(folder: Path, kind: str, question: Mapping, config: Mapping, inputs: Iterable[Path]) -> Record | None:
    """Return the record of a run that is newer than all its inputs; None if there is none, or an input is not there.

    question, config: of the run, as its record would have them.
    """
    try:
        latest = max((path.stat().st_mtime for path in inputs), default=0.0)
    except OSError:
        return None
    question, config = (json.loads(json.dumps(each)) for each in (question, config))
    for record in read_records(folder)[0]:
        same = record.kind == kind and record.question == question
        if same and deciding(record.content.get("config", {})) == deciding(config) and record.path.stat().st_mtime >= latest:
            return record
    return None


def deciding(config: Mapping) -> dict:
    """Return what of a configuration, as records have it, decides a result beside its question."""
    return {key: config.get(key) for key in DECIDING}


def _problem(content: object) -> str | None:
    """Return what keeps a json from being shown as a record; None if nothing does."""
    if not isinstance(content, dict) or not isinstance(content.get("question"), dict):
        return "is no record of a result"
    version = content.get("format", 0)
    if not isinstance(version, int) or version > FORMAT:
        return f"is of format {version}, which a later version of this program wrote"
    odd = [key for key, kind in KINDS.items() if key in content and not isinstance(content[key], kind)]
    return f"is damaged: its {', '.join(odd)} cannot be read" if odd else None
