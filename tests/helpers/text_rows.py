"""Rows of the published text datasets, made up, in the columns and the layout that the Hub serves."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet


def _choices(number: int, count: int) -> dict:
    return {"text": [f"text {number}.{place}" for place in range(count)], "label": list("ABCDEFGH"[:count])}


def _texts(number: int, *names: str) -> dict:
    return {name: f"{name} {number}" for name in names}


def _answers(number: int, names: Sequence[str]) -> dict:
    return {name: f"answer {number}.{place}" for place, name in enumerate(names)}


# By task: the folder and the names of its files; a row, of its number; the right choice of a row, None where it is generated.
HUB = {
    "cosmos_qa": (
        "allenai--cosmos_qa@refs--convert--parquet/default/{}/0000.parquet",
        lambda n: {**_texts(n, "id", "context", "question"), **_answers(n, [f"answer{i}" for i in range(4)]), "label": n % 4},
        lambda n: n % 4,
    ),
    "social_iqa": (
        "allenai--social_i_qa@refs--convert--parquet/default/{}/0000.parquet",
        lambda n: {**_texts(n, "context", "question"), **_answers(n, ["answerA", "answerB", "answerC"]), "label": f"{n % 3 + 1}"},
        lambda n: n % 3,
    ),
    "paws": (
        "google-research-datasets--paws/labeled_final/{}-00000-of-00001.parquet",
        lambda n: {"id": n, **_texts(n, "sentence1", "sentence2"), "label": n % 2},
        lambda n: n % 2,
    ),
    "quail": (
        "textmachinelab--quail/quail/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "id", "context", "question"), "answers": _choices(n, 4)["text"], "correct_answer_id": n % 4},
        lambda n: n % 4,
    ),
    "wiki_qa": (
        "microsoft--wiki_qa/data/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "question_id", "question", "document_title", "answer"), "label": n % 2},
        lambda n: n % 2,
    ),
    "quartz": (
        "allenai--quartz/data/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "id", "question", "para"), "choices": _choices(n, 2), "answerKey": "AB"[n % 2]},
        lambda n: n % 2,
    ),
    "qasc": (
        "allenai--qasc/data/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "id", "question", "fact1", "fact2"), "choices": _choices(n, 8), "answerKey": "ABCDEFGH"[n % 8]},
        lambda n: n % 8,
    ),
    "ropes": (
        "allenai--ropes/plain_text/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "id", "background", "situation", "question"), "answers": {"text": [f"answer {n}"]}},
        lambda n: None,
    ),
    "winogrande": (
        "allenai--winogrande@refs--convert--parquet/winogrande_xl/{}/0000.parquet",
        lambda n: {"sentence": f"the _ is {n}", **_texts(n, "option1", "option2"), "answer": f"{n % 2 + 1}"},
        lambda n: n % 2,
    ),
    "wsc": (
        "aps--super_glue@refs--convert--parquet/wsc.fixed/{}/0000.parquet",
        lambda n: {**_texts(n, "text", "span1_text", "span2_text"), "span1_index": 0, "span2_index": 1, "idx": n, "label": n % 2},
        lambda n: n % 2,
    ),
    "mnli": (
        "nyu-mll--glue/mnli/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "premise", "hypothesis"), "label": n % 3, "idx": n},
        lambda n: n % 3,
    ),
    "qnli": (
        "nyu-mll--glue/qnli/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "question", "sentence"), "label": n % 2, "idx": n},
        lambda n: n % 2,
    ),
    "qqp": (
        "nyu-mll--glue/qqp/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "question1", "question2"), "label": n % 2, "idx": n},
        lambda n: n % 2,
    ),
    "rte": (
        "nyu-mll--glue/rte/{}-00000-of-00001.parquet",
        lambda n: {**_texts(n, "sentence1", "sentence2"), "label": n % 2, "idx": n},
        lambda n: n % 2,
    ),
}


def write_parquet(path: Path, rows: list[dict], group: int = 3) -> None:
    """Write rows in row groups of a few."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def write_hub_files(name: str, data: Path, train: int, validation: int) -> None:
    """Write the files of a task below `data` as a download leaves them, and a test file, which is never read."""
    pattern, row, _ = HUB[name]
    for subset, count in (("train", train), ("validation_matched" if name == "mnli" else "validation", validation), ("test", 1)):
        write_parquet(data / "hub" / pattern.format(subset), [row(number) for number in range(count)], group=500)
