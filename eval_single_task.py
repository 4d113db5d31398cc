"""Score each task's own model, or the pre-trained one, on validation and test data.

python eval_single_task.py --finetuning-mode=none                      the pre-trained model
python eval_single_task.py --finetuning-mode=standard                  or linear, linear-2, lora: those models
python eval_single_task.py --finetuning-mode=posthoc                   standard models, looked at linearly
python eval_single_task.py --model=ViT-B-32 --eval-datasets=MNIST,DTD precision=bf16
"""

import sys

import command_line
from src.evaluation.lineage import doubts, leaks
from src.experiments.single_task import SPLITS, SingleTasks
from src.models.modes import POSTHOC

NONE = "finetuning_mode=none"


def main() -> None:
    overrides, _ = command_line.overrides_of(__doc__, command_line.BENCHMARK)
    config = command_line.composed([text for text in overrides if text != NONE])
    tasks, pretrained = command_line.selected_tasks(config), NONE in overrides
    owners, others = ([], tasks) if pretrained else (tasks, [])
    with command_line.session(config, "eval_single_task.py", sys.argv[1:], owners, others) as run:
        if not run:
            return
        measured, check = run.measured.on(tasks), not pretrained and config.finetuning_mode.linearized != POSTHOC
        run.plan({(task.name, split): 1 + (check and split == "test") for task in tasks for split in SPLITS})
        own = {split: (measured.zeroshot if pretrained else measured.finetuned)(split) for split in SPLITS}
        warnings = [] if pretrained else leaks(own["val"], own["test"])
        if check:  # the tangent model of posthoc is not what learned
            warnings += doubts(measured.zeroshot("test"), own["test"])
        scores = {task.name: {split: own[split][task.name] for split in SPLITS} for task in tasks}
        what = "pre-trained" if pretrained else f"fine-tuned ({config.finetuning_mode.name})"
        title = f"{config.model.name}, {len(tasks)} tasks, {what}"
        asked = {"models": what, **({"finetuning_mode": None} if pretrained else {})}
        run.publish(SingleTasks(scores=scores, **run.about(title, asked, warnings)))


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
