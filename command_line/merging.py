"""The main job: merge a model family's fine-tuned weights, choose coefficients, score the result."""

from collections.abc import Mapping

from omegaconf import DictConfig

from command_line.build import build_method, specified_coefficient
from command_line.config import merge_question, method_name, model_name
from command_line.launch import hydra_arguments
from command_line.output import check_output, publish_analysis, write_output
from command_line.preflight import selected_tasks
from command_line.session import session
from command_line.sweeps import claim_output
from src.errors import plural
from src.evaluation.evaluator import Evaluator
from src.evaluation.lineage import leak_warnings, no_gain_warnings
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import Selection, select
from src.experiments.merge import MergeResult, TaskScores
from src.merging.engine.conjugate_gradient import convergence_notes
from src.models.modes import POSTHOC


def merge_and_score(config: DictConfig) -> None:
    """Merge a model family's fine-tuned weights, choose coefficients on validation data, score on test data, show and save."""
    method, tasks = build_method(config), selected_tasks(config)
    specified = specified_coefficient(config, method, len(tasks))
    checks = [lambda: method.check_tasks([task.name for task in tasks]), lambda: claim_output(config.output)]
    with session(config, "main.py", hydra_arguments(), tasks, checks=checks) as run:
        if run is None:
            return  # other processes did it
        pretrained = run.family.pretrained
        check_output(config, method, run.input_files, pretrained, len(tasks))
        evaluator = run.evaluator
        run.plan({(task.name, split): models for task in tasks for split, models in (("val", 1), ("test", 3))})
        load, strategy = config.method.get("load_mask", False), STRATEGIES[config.search]
        selection = select(method, specified, load, run.paths.mask_files, evaluator, strategy)
        scores = {task: TaskScores(*each) for task, each in evaluator.compare(selection.vectors).items()}
        notes = [
            *selection.notes,
            *convergence_notes(evaluator.inputs.convergence),
            *_warnings(config, evaluator, scores),
            *_precision_note(evaluator, selection),
        ]
        if not run.group.is_main:
            return
        merges, coefficients = selection.merges, selection.coefficients
        written = write_output(config, merges, coefficients, pretrained, selection.provenance) if config.output else None
        title = f"{model_name(config)}, {plural(len(tasks), 'task')}"
        masks = selection.masks.digest if selection.masks else None
        about = run.about(f"{title}, {method_name(config)}", merge_question(config, method.needs), notes, masks=masks)
        result = MergeResult.of(selection, scores, evaluator.inputs, written, **about)
        folder = run.publish(result, selection.curve)
        if config.analysis:
            publish_analysis(evaluator.inputs, merges.masks_at(coefficients), title, folder)


def _warnings(config: DictConfig, evaluator: Evaluator, scores: Mapping[str, TaskScores]) -> list[str]:
    """Return sentences on what is suspicious about the fine-tuned models' accuracies."""
    zeroshot, finetuned = ({task: getattr(each, kind) for task, each in scores.items()} for kind in ("zeroshot", "finetuned"))
    warnings = leak_warnings(evaluator.finetuned("val"), finetuned)
    if config.finetuning_mode.linearized != POSTHOC:  # whose tangent model was never trained, and need not be better
        warnings += no_gain_warnings(zeroshot, finetuned)
    return warnings


def _precision_note(evaluator: Evaluator, selection: Selection) -> list[str]:
    """Return a sentence on how many predictions a narrow precision changes; [] in float32."""
    precision = evaluator.family.precision
    if precision == "fp32":
        return []
    different, compared = evaluator.precision_differences(selection.vectors)
    return [f"{precision} and float32 differ on {different} of {compared} of the merged model's predictions"]
