"""The published files of MaTS (Tam et al., 2024): in a bucket of Google Cloud, whose folders say which task a file is of.

`exp_out/p3/<task>/google-t5-large-lm-adapt/[full_model|ia3]/<date>/checkpoints/checkpoint_<step>.pt` are fine-tuned models,
`exp_out/p3_eight_qa/...` ones that were fine-tuned on all tasks, `exp_out/merging/.../merged_model.pt` merged ones.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MODEL = "t5-large-lm-adapt"
BUCKET = "gs://merging_by_matching_models_in_their_task_subspace"
PAGE = f"https://console.cloud.google.com/storage/browser/{BUCKET.removeprefix('gs://')}"
FOLDERS = {"nonlinear": "(?:full_model/)?", "ia3": "ia3/"}  # by the prefix of a mode's files
# The checkpoints that were merged, the last step counted from 0, by model, prefix and task: those of the best validation score.
STEPS = {MODEL: {
    "nonlinear": {
        **{"cosmos_qa": 399, "social_iqa": 799, "paws": 1299, "quail": 999, "wiki_qa": 499, "quartz": 399, "qasc": 199},
        **{"ropes": 499, "story_cloze": 299, "winogrande": 1399, "wsc": 99, "mnli": 599, "qnli": 899, "qqp": 999, "rte": 399},
    },
    "ia3": {
        **{"cosmos_qa": 1299, "social_iqa": 1099, "paws": 2699, "quail": 1399, "wiki_qa": 99, "quartz": 1799, "qasc": 499},
        **{"ropes": 799, "story_cloze": 1099, "winogrande": 2099, "wsc": 99, "mnli": 2099, "qnli": 1199, "qqp": 1399, "rte": 799},
    },
}}  # fmt: skip


def steps_of(model: str, mode: str) -> Mapping[str, int]:
    """Return the last step of each task's checkpoint, counted from 0; {} where the bucket has none.

    mode: prefix of its files.
    """
    return STEPS.get(model, {}).get(mode, {})


def folder_of(model: str) -> str:
    """Return what the bucket calls the folder of a model, by this program's name for it."""
    return f"google-{model}"


def finetuned_in(files: Iterable[Path], model: str, task: str, mode: str) -> Path | None:
    """Return the checkpoint of a task that was merged, among files that lie as in the bucket; None if it is not there.

    mode: prefix of its files.
    """
    steps = steps_of(model, mode)
    if task not in steps:
        return None
    parent = f"p3/{re.escape(task)}/{re.escape(folder_of(model))}/{FOLDERS[mode]}"
    path = re.compile(rf".*/{parent}[^/]+/checkpoints/checkpoint_{steps[task]}\.pt")
    return next((file for file in files if path.fullmatch(file.as_posix())), None)
