"""Records as merges write them, small and by hand."""

import json
import os
from pathlib import Path

import numpy as np

from src.evaluation.examples import encode
from src.reports.records import Record, read_records

FINETUNED, ZEROSHOT = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def merge_record(method: str = "ties", merged: list[float] = FINETUNED, *, lines: bool = False, **changes: object) -> dict:
    """Return the record of a merge on two tasks of ten examples, of which the merged model has these scores."""
    own = np.array(merged, dtype=float)
    scores = {"right": own.sum(), "count": len(own), "accuracy": own.mean(), "examples": encode(own)}

    def score(right: list[float]) -> dict:
        return {"right": sum(right), "count": len(right), "accuracy": sum(right) / len(right)}

    test = {task: {"zeroshot": score(ZEROSHOT), "finetuned": score(FINETUNED), "merged": dict(scores), "normalised": own.mean() / 0.9}
            for task in ("A", "B")}  # fmt: skip
    question = {"model": "m", "finetuning_mode": {"name": "standard"}, "tasks": ["A", "B"], "precision": "fp32",
                "method": {"_target_": f"x.{method}.Y", "apply_lines": lines, "k": 20}, "specify_lambda": None}  # fmt: skip
    record = {
        "kind": "merge",
        "format": 1,
        "name": f"m-2-tasks-{method}",
        "choices": {"model": "m", "method": method, "tasks": "mine"},
        "question": question,
        "config": {**question, "model": {"name": "m", "recipe": {"seed": 0}}},
        "coefficient": 0.3,
        "test": test,
        "means": {"merged": {"mean": own.mean(), "half_width_95": 0.1}, "finetuned": {"mean": 0.9, "half_width_95": 0.05},
                  "zeroshot": {"mean": 0.2, "half_width_95": 0.1}, "normalised": {"mean": own.mean() / 0.9, "half_width_95": 0.1}},
        "summary": {},
        "bytes_stored": 4_000_000,
        "storage": None,
        "seconds": 2.5,
        "benchmark": "own",
        "lineage": {"data": {"A": {"test": "a"}, "B": {"test": "b"}}},
    }  # fmt: skip
    return {**record, **changes}


def save_records(folder: Path, *records: dict) -> list[Record]:
    """Write records, each a second newer than the one before, and return them as they are read."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        path = folder / f"{record['name']}-{number}.json"
        path.write_text(json.dumps(record))
        os.utime(path, (1e9 + number, 1e9 + number))
    return read_records(folder)[0]
