"""model=files: merge state dicts from disk, of any architecture; nothing is scored."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from command_line.build import build_device, build_method, check_statistics, specified_coefficient
from command_line.config import method_name
from command_line.output import check_output, publish_analysis, write_output
from command_line.paths import file_sources, statistics_paths
from command_line.readers import FILES, refuse_unread
from command_line.sweeps import claim_output
from src.checkpoints.mask_files import MaskProvenance, load_masks
from src.checkpoints.opening import open_all, open_checkpoint, open_finetuned, repetitions
from src.checkpoints.reading import Checkpoint
from src.checkpoints.solved import SolvedEntries
from src.elementwise import as_real
from src.errors import UserError, plural, raise_any, shorten
from src.merging.engine.conjugate_gradient import convergence_notes
from src.merging.engine.inputs import MergeInputs
from src.models.layers import depth_by_name, is_layer_by_name
from src.runtime.environment import is_distributed
from src.runtime.files import expand_path, file_state
from src.state_dict import StateDict, digest, kind_differences, vector_outline
from src.statistics.files import open_statistics


def merge_files(config: DictConfig) -> None:
    """Merge state dicts from disk into `output`, streaming; nothing is scored."""
    if is_distributed() or (config.world_size or 1) > 1:
        raise UserError("model=files is merged by one process; leave world_size out, and start main.py without torchrun")
    refuse_unread(FILES)
    started, method = time.monotonic(), build_method(config)
    if not method.needs_models:
        raise UserError(
            f"method={method_name(config)} merges nothing, and model=files scores nothing; choose the file's model, such as "
            "model=ViT-B-32"
        )
    base, sources = file_sources(config)
    method.check_tasks(list(sources))
    claim_output(config.output)
    coefficient, load = specified_coefficient(config, method, len(sources)), config.method.get("load_mask", False)
    if coefficient is None and not (load and method.per_task):
        raise UserError("model=files has no validation data to choose a coefficient on; give specify_lambda=NUMBER")
    pretrained = open_checkpoint(base)
    finetuned = open_all(sources, partial(open_finetuned, pretrained=pretrained))
    models = [pretrained, *finetuned.values()]
    depth = depth_by_name(pretrained, config.method.depth_pattern) if config.method.apply_lines else lambda key: None
    raise_any(problem for task, model in finetuned.items() for problem in kind_differences(pretrained, task, model))
    real = {task: as_real(model) for task, model in finetuned.items()}
    base_model = as_real(pretrained)
    statistic_files = statistics_paths(config)
    files = [file for checkpoint in models for file in (checkpoint.path, *checkpoint.files)]
    files += [*statistic_files, *map(expand_path, method.files)]
    check_output(config, method, files, pretrained, len(sources))
    check_statistics(config, method)
    statistics = open_statistics(statistic_files, finetuned, vector_outline(base_model))

    def read_model(path: str) -> StateDict:
        return as_real(open_finetuned(expand_path(path), pretrained))

    output = expand_path(config.output)
    solved = SolvedEntries(output.with_name(f"{output.name}.solved"), _identity(models, statistic_files))
    device = build_device(config)
    inputs = MergeInputs(base_model, real, depth, is_layer_by_name, device, False, statistics, read_model, solved)
    for note in (*repetitions(base, sources), *(note for checkpoint in models for note in checkpoint.notes)):
        print(note)
    integers = inputs.changed_integers()
    if codes := [key for key in integers if pretrained.outline[key].ndim > 1]:
        raise UserError(
            f"{shorten(codes)} hold integers that fine-tuning changed: codes of a quantisation, it seems, which no method merges;"
            " load the models without it, and save them in 16 bit first"
        )
    if integers:
        print(f"not merged, but kept as in the pre-trained model, though fine-tuning changed them: {shorten(integers)}")
    provenance = masks = None
    if load or config.output_kind == "bundle":
        digests = {task: digest(model.items()) for task, model in finetuned.items()}
        provenance = MaskProvenance(method.mask_base, digest(pretrained.items()), digests)
        masks = load_masks(load or False, None, provenance, inputs.outline, method.coefficients(len(sources)))
    if masks:
        method = method.with_masks(masks.masks)
        print(f"masks: {masks}")
    lambdas = masks.lambdas if masks and method.per_task else None
    coefficients, merges = lambdas or dict.fromkeys(sources, coefficient), method(inputs)
    write_output(config, merges, coefficients, pretrained, provenance)
    solved.remove()
    if config.analysis:
        folder = expand_path(config.results_dir) / f"{Path(config.output).stem}-analysis"
        publish_analysis(inputs, merges.masks_at(coefficients), plural(len(sources), "model"), folder)
    for note in convergence_notes(inputs.convergence):
        print(note)
    print(f"{config.output}: {plural(len(sources), 'model')} merged in {time.monotonic() - started:.1f} s")


def _identity(models: Sequence[Checkpoint], statistics: Sequence[Path]) -> list:
    """Return what tells the files of a merge from others, as JSON values: their paths, sizes and times of change."""
    files = [*(file for model in models for file in model.files), *statistics]
    return [[str(model.path) for model in models], *map(file_state, files)]
