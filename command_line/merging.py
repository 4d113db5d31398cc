"""The main job: merge a model family's fine-tuned weights, choose coefficients, score the result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from command_line.build import build_method, build_statistics_settings, check_statistics, specified_coefficient
from command_line.config import merge_question, method_name, model_name
from command_line.launch import hydra_arguments
from command_line.output import check_output, check_rank, publish_analysis, write_output
from command_line.preflight import selected_tasks, unseen_tasks
from command_line.session import Session, session
from command_line.sweeps import claim_output
from src.checkpoints.bundles import is_bundled_task
from src.checkpoints.shards import split_part
from src.data.task import Task
from src.errors import UserError, plural, raise_any
from src.evaluation.evaluator import Evaluator
from src.evaluation.lineage import leak_warnings, no_gain_warnings
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import Selection, select
from src.experiments.merge import MergeResult, TaskScores
from src.merging.engine.conjugate_gradient import convergence_notes
from src.merging.method import Method
from src.models.modes import POSTHOC
from src.runtime.files import expand_path
from src.task_vectors import TaskVector

KIND = MergeResult.kind


def question_of(config: DictConfig) -> tuple[list[str], dict]:
    """Return the names of all tasks that a merge is scored on, and the options that decide its result."""
    tasks, method = selected_tasks(config), build_method(config)
    unseen = [task.name for task in unseen_tasks(config, tasks)]
    own = {"eval_on": unseen} if unseen else {}
    return [*(task.name for task in tasks), *unseen], {**merge_question(config, method.needs), **own}


def merge_and_score(config: DictConfig) -> None:
    """Merge a model family's fine-tuned weights, choose coefficients on validation data, score on test data, show and save."""
    method, tasks = build_method(config), selected_tasks(config)
    unseen, specified = unseen_tasks(config, tasks), specified_coefficient(config, method, len(tasks))
    checks = [
        lambda: method.check_tasks([task.name for task in tasks]),
        lambda: claim_output(config.output),
        lambda: _check_unseen(config, method, unseen),
        lambda: _check_files(method),
        lambda: check_statistics(config, method),
    ]
    _, question = question_of(config)
    with session(
        config, "main.py", hydra_arguments(), tasks, unseen, checks, method.needs_models, kind=KIND, question=question
    ) as run:
        if run is None:
            return  # other processes did it
        pretrained = run.family.pretrained
        check_output(config, method, run.input_files, pretrained, len(tasks))
        evaluator, owners = run.evaluator, [task.name for task in run.owners]
        check_rank(config, method, evaluator.inputs)
        run.plan({(name, split): 1 for name in owners for split in ("val", "test")})
        run.plan({(task.name, "test"): 2 for task in (*tasks, *unseen)})
        load, strategy = config.method.get("load_mask", False), STRATEGIES[config.search]
        selection = select(method, specified, load, run.paths.mask_files, evaluator, strategy)
        scores = _compare(evaluator, selection.vectors)
        inputs = evaluator.inputs
        notes = [*selection.notes, *method.notes(inputs), *inputs.notes, *convergence_notes(inputs.convergence)]
        notes += [*_warnings(config, run, scores), *_precision_note(evaluator, selection)]
        if config.rank:
            notes.append(
                f"these figures are of the whole merge, of which the adapter keeps {config.rank} directions a matrix; "
                f"method=given method.weights={config.output} scores it"
            )
        shared = next(iter(selection.vectors.values()))
        others = _compare(evaluator.on(unseen), dict.fromkeys((task.name for task in unseen), shared))
        if not run.group.is_main:
            return
        merges, coefficients = selection.merges, selection.coefficients
        written = None
        if config.output:
            written = write_output(config, merges, coefficients, evaluator.inputs, pretrained, selection.provenance)
        title = f"{model_name(config)}, {plural(len(tasks), 'task')}"
        masks = selection.masks.digest if selection.masks else None
        about = run.about(f"{title}, {method_name(config)}", notes, masks=masks)
        settings = build_statistics_settings(config)
        result = MergeResult.of(selection, scores, others, evaluator.inputs, written, settings, **about)
        folder = run.publish(result, selection.curve)
        if config.analysis:
            publish_analysis(evaluator.inputs, merges.masks_at(coefficients), title, folder)


def _check_unseen(config: DictConfig, method: Method, unseen: Sequence[Task]) -> None:
    """Raise UserError if there are unseen tasks and no one model for them."""
    if unseen and method.per_task:
        raise UserError(
            f"eval_on scores one model on other tasks, and method={method_name(config)} makes one for each of its own; leave "
            "eval_on out, or choose another method"
        )


def _check_files(method: Method) -> None:
    """Raise UserError for all files that a method reads and that are not there."""
    paths = [expand_path(path) for path in method.files]
    raise_any(
        f"there is no model at {path}; check the path (relative paths start at {Path.cwd()})"
        for path in paths
        if not (split_part(path)[0].exists() or is_bundled_task(path))
    )


def _compare(evaluator: Evaluator, vectors: Mapping[str, TaskVector]) -> dict[str, TaskScores]:
    """Return test scores by task."""
    return {task: TaskScores(**{"finetuned": None, **scores}) for task, scores in evaluator.compare(vectors).items()}


def _warnings(config: DictConfig, run: Session, scores: Mapping[str, TaskScores]) -> list[str]:
    """Return sentences on what is suspicious about the fine-tuned models' accuracies."""
    owners = [task.name for task in run.owners]
    zeroshot, finetuned = ({task: getattr(scores[task], kind) for task in owners} for kind in ("zeroshot", "finetuned"))
    warnings = leak_warnings(run.evaluator.on(run.owners).finetuned("val"), finetuned)
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
