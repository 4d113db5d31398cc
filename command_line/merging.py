"""The two jobs of main.py: merge state dicts from disk, or merge a model family's fine-tuned weights and score the result."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from command_line.build import build_device, build_method, specified_coefficient
from command_line.config import merge_question, method_name, model_name
from command_line.launch import hydra_arguments
from command_line.paths import expanded, file_sources
from command_line.preflight import check_output, selected_tasks
from src.checkpoints.bundles import save_bundle
from src.checkpoints.mask_files import MaskProvenance
from src.checkpoints.opening import open_all, open_checkpoint, open_finetuned
from src.checkpoints.writing import save_by_task, save_file, save_folder
from src.errors import UserError
from src.evaluation.evaluator import Evaluator
from src.evaluation.lineage import leak_warnings, no_gain_warnings
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import Selection, load_masks, select
from src.experiments.merge import MergeResult, TaskScores
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily
from src.models.layers import depth_by_name, is_layer_by_name
from src.models.modes import POSTHOC
from src.runtime.files import write_json
from src.state_dict import StateDict, add_vector, digest


def merge_files(config: DictConfig) -> None:
    """Merge state dicts from disk into `output`, streaming; nothing is scored."""
    started, method = time.monotonic(), build_method(config)
    base, sources = file_sources(config)
    method.check_tasks(list(sources))
    coefficient, load = specified_coefficient(config, method, len(sources)), config.method.get("load_mask", False)
    if coefficient is None and not (load and method.per_task):
        raise UserError("model=files has no validation data to choose a coefficient on; give specify_lambda=NUMBER")
    pretrained = open_checkpoint(base)
    finetuned = open_all(sources, partial(open_finetuned, pretrained=pretrained))
    depth = depth_by_name(pretrained, config.method.depth_pattern) if config.method.apply_lines else lambda key: None
    inputs = MergeInputs(pretrained, finetuned, depth, is_layer_by_name, build_device(config), keep=False)
    files = [file for checkpoint in (pretrained, *finetuned.values()) for file in (checkpoint.path, *checkpoint.files)]
    check_output(config, method, files, pretrained, len(sources))
    provenance = masks = None
    if load or config.output_kind == "bundle":
        digests = {task: digest(model.items()) for task, model in finetuned.items()}
        provenance = MaskProvenance(method.mask_base, digest(pretrained.items()), digests)
        masks = load_masks(method, load, None, inputs, provenance)
    if masks:
        method = method.with_masks(masks.masks)
        print(f"masks: {masks}")
    lambdas = masks.lambdas if masks and method.per_task else None
    coefficients, merges = lambdas or dict.fromkeys(sources, coefficient), method(inputs)
    write_output(config, merges, coefficients, pretrained, provenance)
    if config.analysis:
        folder = expanded(config.results_dir) / f"{Path(config.output).stem}-analysis"
        publish_analysis(inputs, merges.masks_at(coefficients), f"{len(sources)} models", folder)
    print(f"{config.output}: {len(sources)} models merged in {time.monotonic() - started:.1f} s")


def merge_and_score(config: DictConfig) -> None:
    """Merge a model family's fine-tuned weights, choose coefficients on validation data, score on test data, show and save."""
    from command_line.session import session  # with all that scoring needs

    method, tasks = build_method(config), selected_tasks(config)
    specified = specified_coefficient(config, method, len(tasks))
    checks = [lambda: method.check_tasks([task.name for task in tasks])]
    with session(config, "main.py", hydra_arguments(), tasks, checks=checks) as run:
        if run is None:
            return  # other processes did it
        pretrained, files = run.family.pretrained, [run.paths.finetuned(task.name) for task in tasks]
        check_output(config, method, files, pretrained, len(tasks))
        evaluator = run.evaluator
        run.plan({(task.name, split): models for task in tasks for split, models in (("val", 1), ("test", 3))})
        load, strategy = config.method.get("load_mask", False), STRATEGIES[config.search]
        selection = select(method, specified, load, run.paths.masks, evaluator, strategy)
        scores = {task: TaskScores(*each) for task, each in evaluator.compared(selection.vectors).items()}
        notes = [*selection.notes, *_warnings(config, evaluator, scores), *_precision_note(evaluator, selection)]
        if not run.group.is_main:
            return
        merges, coefficients = selection.merges, selection.coefficients
        written = write_output(config, merges, coefficients, pretrained, selection.provenance) if config.output else None
        title = f"{model_name(config)}, {len(tasks)} tasks"
        masks = selection.masks.digest if selection.masks else None
        about = run.about(f"{title}, {method_name(config)}", merge_question(config), notes, masks=masks)
        result = MergeResult.of(selection, scores, evaluator.inputs, written, **about)
        folder = run.publish(result, selection.curve)
        if config.analysis:
            publish_analysis(evaluator.inputs, merges.masks_at(coefficients), title, folder)


def _warnings(config: DictConfig, evaluator: Evaluator, scores: Mapping[str, TaskScores]) -> list[str]:
    """Return what is suspicious about the fine-tuned models' accuracies."""
    zeroshot, finetuned = ({task: getattr(each, kind) for task, each in scores.items()} for kind in ("zeroshot", "finetuned"))
    warnings = leak_warnings(evaluator.finetuned("val"), finetuned)
    if config.finetuning_mode.linearized != POSTHOC:  # the tangent model was not what learned
        warnings += no_gain_warnings(zeroshot, finetuned)
    return warnings


def _precision_note(evaluator: Evaluator, selection: Selection) -> list[str]:
    """Return how many predictions a narrow precision changes."""
    precision = evaluator.family.precision
    if precision == "fp32":
        return []
    different, seen = evaluator.precision_differences(selection.vectors)
    return [f"{precision} and float32 differ on {different} of {seen} of the merged model's predictions"]


def write_output(
    config: DictConfig,
    merges: MergeFamily,
    coefficients: dict[str, float | None],
    pretrained: StateDict,
    provenance: MaskProvenance | None,
) -> int | None:
    """Write what `output` and `output_kind` ask for; return the bytes that a bundle takes on disk."""
    path = expanded(config.output)
    if config.output_kind == "bundle":
        facts = {"method": method_name(config), **provenance.facts(coefficients, None)}
        return save_bundle(merges.compact(coefficients), pretrained, path, facts)
    vectors, is_model = merges.at(coefficients), config.output_kind == "model"
    contents = {task: add_vector(pretrained, vector) if is_model else vector for task, vector in vectors.items()}
    metadata = {"kind": config.output_kind, "method": method_name(config), "tasks": ",".join(vectors)}
    if merges.compact:
        save_by_task(contents, path, metadata)
    elif path.suffix == ".safetensors":
        save_file(next(iter(contents.values())), path, metadata)
    else:
        save_folder(next(iter(contents.values())), path, pretrained, metadata)
    return None


def publish_analysis(inputs: MergeInputs, masks: Mapping[str, StateDict] | None, title: str, folder: Path) -> None:
    """Write what the tasks share, as figures and as pictures."""
    from src.experiments.analysis import analyse
    from src.reports.analysis_figures import draw_analysis  # matplotlib is slow to import, and few runs draw

    analysis = analyse(inputs, masks)
    write_json(folder / "analysis.json", asdict(analysis))
    for path in (folder / "analysis.json", *draw_analysis(analysis, title, folder)):
        print(path)
    if masks is None:
        print("no picture of masks: this method uses none (tall_mask, consensus and mag_masking do)")
