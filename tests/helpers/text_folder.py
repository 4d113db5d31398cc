"""A folder of a user's own: a tiny T5, tasks of text in files, and the yaml that names them."""

import json
import random
import shutil
from pathlib import Path

from tests.helpers.text_models import GOLDEN

TASKS = """
names: [first, last]
first:
  source: rows/first
  templates: ["{{text}} t60 ||| {{answer_choices[label]}}", "t61 {{text}} ||| {{answer_choices[label]}}"]
  choices: [t70, t71]
last:
  source: rows/last
  templates: ["{{text}} t62 ||| {{answer_choices[label]}}"]
  choices: [t70, t71]
"""
WRITTEN = """
names: [written]
written:
  source: rows/first
  templates: ["{{text}} t63 ||| {% if label %}t71{% else %}t70{% endif %}"]
"""
MODEL = """
defaults:
  - t5
  - override /tasks@_global_.tasks: words
name: mine
pretrained: tiny
learning_rates: {standard: 1.0e-2, ia3: 1.0e-1, lora: 1.0e-2}
recipe: {steps: 12, evaluate_steps: 4, patience: 2, batch_size: 16, num_grad_accumulation: 1}
"""
MINE = ("--config-dir=mine", "model=mine")
FLAGS = ("--config-dir=mine", "--model=mine")


def write_rows(folder: Path, position: int, seed: int) -> None:
    """Write sentences of four words, one of which says what to answer."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    for split, count in (("train", 48), ("val", 16), ("test", 16)):
        rows = []
        for _ in range(count):
            words, label = [f"t{draw.randrange(10, 40)}" for _ in range(4)], draw.randrange(2)
            words[position] = f"t{50 + label}"
            rows.append(json.dumps({"text": " ".join(words), "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))


def make_folder(root: Path) -> None:
    """Write a tiny T5, two tasks that choose and one that writes, and their yaml, below `mine`."""
    (root / "tiny").mkdir()
    for ours, theirs in (("config.json",) * 2, ("tokenizer.json",) * 2, ("pretrained.safetensors", "model.safetensors")):
        shutil.copy(GOLDEN / "inputs" / ours, root / "tiny" / theirs)
    for seed, (task, position) in enumerate({"first": 0, "last": -1}.items()):
        write_rows(root / "rows" / task, position, seed)
    for name, text in {"tasks/words": TASKS, "tasks/texts": WRITTEN, "model/mine": MODEL}.items():
        path = root / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
