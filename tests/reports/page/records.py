"""Records that a page is made of: four as the program wrote them, synthetic ones by the hundred, and hostile ones."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "files" / "records"
HOSTILE = '</script><!--<script><img src=x onerror="document.title=1">\u2028 \ud800 "\'&amp; $title'
ODD = (None, True, -3, 1e400, float("nan"), 10**400, "text", [], [1, None, "x", [2]], {}, {"a": {"b": 1}, "mean": "x"})


def written() -> dict[str, dict]:
    """The committed records, by method: tall_mask, ties + LiNeS, sum on text and the fine-tuned models on their own."""
    names = {"tall_mask": "*tall-mask*", "ties": "*ties*", "sum": "*sum*", "single_task": "*fine-tuned*"}
    return {name: json.loads(next(FOLDER.glob(f"{pattern}.json")).read_text()) for name, pattern in names.items()}


def merge(number: int, tasks: int = 20, points: int = 30) -> dict:
    """A record of a merge of many tasks, of which no two have the same figures."""
    names = [f"Dataset{task}" for task in range(tasks)]
    score = {task: {model: {"right": 400 + (37 * number + 11 * position + len(model)) % 600, "count": 1000, "accuracy": 0.5}
                    for model in ("zeroshot", "finetuned", "merged")} for position, task in enumerate(names)}  # fmt: skip
    curve = [{"coefficient": 0.1 * point, "accuracy": dict.fromkeys(names, (7 * number + point) % 1000 / 1000)}
             for point in range(1, points + 1)]  # fmt: skip
    digests = {task: f"{position:032x}" for position, task in enumerate(names)}
    return {
        "kind": "merge",
        "format": 1,
        "name": f"ViT-L-14-{tasks}-tasks-ties-{number:08x}",
        "question": {"model": "ViT-L-14", "tasks": names, "method": {"_target_": "src.merging.ties.Ties", "k": number % 100 + 1}},
        "coefficient": number / 500,
        "coefficients": dict.fromkeys(names, number / 500),
        "validation": curve,
        "test": score,
        "means": {
            model: {"mean": 0.5 + number / 1000, "half_width_95": 0.003}
            for model in ("zeroshot", "finetuned", "merged", "normalised")
        },
        "evaluations": {"made": points, "grid": points},
        "bytes_stored": 1_200_000_000 + number,
        "storage": None,
        "scale_by_depth": {"outside": 0.1, **{str(block): block * number / 1000 for block in range(24)}},
        "notes": [f"a note of record {number}", "a note that many records share, as the notes on a data set are"],
        "seconds": 100.0 + number,
        "benchmark": ("tall-v1", "unknown")[number % 2],
        "lineage": {"pretrained": "0" * 32, "finetuned": digests, "heads": digests, "data": {}, "tasks": digests},
    }


def analysis(tasks: list[str]) -> dict:
    count = len(tasks)
    matrix = [[1.0 if row == column else 0.25 for column in range(count)] for row in range(count)]
    layers = [{"name": f"blocks.{block}.w", "depth": block / 3, "values": [[3.0, 2.0, 0.5]] * count, "rank": 1, "overlap": matrix}
              for block in range(4)]  # fmt: skip
    return {"tasks": tasks, "cosine": matrix, "norm": [1.0] * count, "layers": layers,
            "masks": {"share": [0.1] * (count + 1), "kept": [0.4] * count, "overlap": matrix}}  # fmt: skip


def comparisons() -> list[dict]:
    cell = {"table": "a table", "row": "TIES", "column": "8 tasks", "ours": 70.1, "half_width": 0.4, "published": 70.3,
            "difference": -0.2, "source": "a paper, table 1", "confidence": "page-image"}  # fmt: skip
    reasons = {"agrees": "within the interval", "differs": "three intervals apart", "not comparable": "another lineage"}
    return [{**cell, "verdict": verdict, "reason": reason} for verdict, reason in reasons.items()]


def paths(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value of a record, the record itself first; of lists the first entry alone."""
    yield path
    entries = value.items() if isinstance(value, Mapping) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in entries:
        yield from paths(each, (*path, key))


def replaced(record: dict, path: tuple, value: object) -> object:
    """A copy of a record with another value at a path."""
    if not path:
        return value
    copy = deepcopy(record)
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def damaged(record: dict) -> list:
    """A record in all ways in which one of the values that a page reads is missing or of another shape."""
    read = {key: value for key, value in record.items() if key not in ("config", "made_with", "peak_memory_bytes")}
    read["test"] = dict(list(read["test"].items())[:2])
    read["validation"] = read["validation"][:2]
    return [replaced(read, path, value) for path in paths(read) for value in ODD]
