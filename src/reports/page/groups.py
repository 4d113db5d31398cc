"""Groups of records that may be compared: of the same benchmark, model, weights, data and tasks."""

import json
from collections.abc import Mapping, Sequence

import xxhash

from src.reports.page.lenient import at, mapping, text

BY_TASK = ("finetuned", "heads", "data", "tasks")  # sections of a lineage that hold a digest for each task


def group_of(record: Mapping, tasks: Sequence[str]) -> dict:
    """Return the group of a record: benchmark, model, tasks, digest of its lineage, and of the pre-trained model.

    lineage: `` where the record has none.
    """
    lineage = mapping(record.get("lineage"))
    question, config = mapping(record.get("question")), mapping(record.get("config"))
    relevant = [lineage.get("pretrained"), *(at(lineage, section, task) for section in BY_TASK for task in sorted(tasks))]
    digest = xxhash.xxh3_64_hexdigest(json.dumps(relevant, sort_keys=True, default=str).encode()) if lineage else ""
    return {
        "benchmark": text(record.get("benchmark")) or "unknown",
        "model": text(question.get("model") or at(record, "choices", "model") or at(config, "model", "name")),
        "tasks": list(tasks),
        "lineage": digest[:8],
        "pretrained": text(lineage.get("pretrained"))[:8],
    }


def numbered(groups: Sequence[dict]) -> tuple[list[dict], list[int]]:
    """Return the different groups, in order, and the number of each one's."""
    keys = [json.dumps({**group, "tasks": sorted(group["tasks"])}, sort_keys=True) for group in groups]
    different = dict.fromkeys(sorted(keys))
    position = {key: number for number, key in enumerate(different)}
    first = dict(zip(reversed(keys), reversed(groups)))
    return [first[key] for key in different], [position[key] for key in keys]
