"""Score each task's own model, or the pre-trained one, on validation and test data.

python eval_single_task.py --finetuning-mode=none                      the pre-trained model
python eval_single_task.py --finetuning-mode=standard                  or linear, linear-2, lora: those models
python eval_single_task.py --finetuning-mode=posthoc                   standard models, scored by the tangent model
python eval_single_task.py --model=ViT-B-32 --eval-datasets=MNIST,DTD precision=bf16
"""

import sys

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import compose_config
from command_line.console import run_script
from command_line.flags import BENCHMARK, parse_flags
from command_line.preflight import selected_tasks
from command_line.session import session
from src.errors import plural
from src.evaluation.lineage import leak_warnings, no_gain_warnings
from src.experiments.single_task import SPLITS, SingleTaskResult
from src.models.modes import POSTHOC

NONE = "finetuning_mode=none"


def main() -> None:
    overrides, _ = parse_flags(__doc__, BENCHMARK)
    config = compose_config([text for text in overrides if text != NONE])
    tasks, is_pretrained = selected_tasks(config), NONE in overrides
    owners, others = ([], tasks) if is_pretrained else (tasks, [])
    models = "pre-trained" if is_pretrained else f"fine-tuned ({config.finetuning_mode.name})"
    question = {"models": models, **({"finetuning_mode": None} if is_pretrained else {})}
    with session(
        config, "eval_single_task.py", sys.argv[1:], owners, others, kind=SingleTaskResult.kind, question=question
    ) as run:
        if run is None:
            return
        # the tangent model of posthoc was never trained, and need not be better than the pre-trained one
        expects_gain = not is_pretrained and config.finetuning_mode.linearized != POSTHOC
        evaluator = run.evaluator.on(tasks)
        run.plan({(task.name, split): 1 + (expects_gain and split == "test") for task in tasks for split in SPLITS})
        own = {split: (evaluator.zeroshot if is_pretrained else evaluator.finetuned)(split) for split in SPLITS}
        warnings = [] if is_pretrained else leak_warnings(own["val"], own["test"])
        if expects_gain:
            warnings += no_gain_warnings(evaluator.zeroshot("test"), own["test"])
        if not run.group.is_main:
            return
        title = f"{config.model.name}, {plural(len(tasks), 'task')}, {models}"
        scores = {task.name: {split: own[split][task.name] for split in SPLITS} for task in tasks}
        about = run.about(title, [*warnings, *run.precision_note])
        run.publish(SingleTaskResult(scores=scores, **about))


if __name__ == "__main__":
    sys.exit(run_script(main))
