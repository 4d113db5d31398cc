"""Merges of state dicts of any architecture, from disk or in memory, that nothing scores: of model=files and of `merging`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from command_line.build import build_device, build_method, check_statistics, specified_coefficient
from command_line.config import method_name
from command_line.output import check_output, check_rank, write_output
from command_line.paths import statistics_paths
from src.checkpoints.in_memory import common_device, model_in_memory
from src.checkpoints.mask_files import MaskProvenance, SavedMasks, load_masks
from src.checkpoints.opening import PRETRAINED, open_checkpoint, open_finetuned, repetitions
from src.checkpoints.reading import Checkpoint
from src.checkpoints.solved import SolvedEntries
from src.elementwise import as_real
from src.errors import UserError, collect, raise_any, shorten
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method
from src.models.layers import depth_by_name, is_layer_by_name
from src.runtime.files import expand_path, file_state
from src.state_dict import StateDict, digest, kind_differences, vector_outline
from src.statistics.files import open_statistics, statistics_in_memory

Source = Path | StateDict
Statistics = Mapping[str, Mapping[str, StateDict]]  # by kind and task
Listener = Callable[[str], None]


@dataclass(frozen=True)
class UnscoredMerge:
    """A merge of state dicts that is ready to be computed.

    pretrained: with its complex entries as they are.
    inputs: of the method.
    merges, coefficients: the family that the method makes of them, and what it is asked for, by task.
    provenance: of masks that are loaded, or written in a bundle; else None.
    masks: loaded ones; else None.
    """

    pretrained: StateDict
    inputs: MergeInputs
    merges: MergeFamily
    coefficients: Mapping[str, float | None]
    provenance: MaskProvenance | None
    masks: SavedMasks | None


def prepare_merge(
    config: DictConfig, pretrained: Source, finetuned: Mapping[str, Source], statistics: Statistics, note: Listener
) -> UnscoredMerge:
    """Return the merge of a pre-trained model and its fine-tuned copies, by task, that the configuration describes.

    pretrained, finetuned: paths, or state dicts in memory, which are read when entries are, and never edited.
    statistics: in memory; those in files are in the configuration.
    note: listener, which hears what should be known of the models.

    Raise UserError for options and models that do not fit, before anything large is read, and for an `output` that cannot be
    written.
    """
    method = build_method(config)
    if not method.needs_models:
        raise UserError(
            f"method={method_name(config)} merges nothing, and model=files scores nothing; choose the file's model, such as "
            "model=ViT-B-32"
        )
    method.check_tasks(list(finetuned))
    coefficient, load = specified_coefficient(config, method, len(finetuned)), config.method.get("load_mask", False)
    if coefficient is None and not (load and method.per_task):
        raise UserError(
            f"method={method_name(config)} has a coefficient, and there is no validation data here to choose it on; give it: "
            "specify_lambda=NUMBER, in Python coefficient=NUMBER"
        )
    device = build_device(config)
    base, models = _open(pretrained, finetuned, device)
    depth = _depth(config, base)
    raise_any(problem for task, model in models.items() for problem in kind_differences(base, task, model))
    files = _files_of(base, *models.values())
    statistic_files = statistics_paths(config)
    check_output(config, method, [*files, *statistic_files, *map(expand_path, method.files)], base, len(models))
    check_statistics(config, method, statistics)
    base_model = as_real(base)
    by_kind = {**open_statistics(statistic_files, models, vector_outline(base_model)),
               **statistics_in_memory(statistics, list(models), device)}  # fmt: skip

    def read_model(path: str) -> StateDict:
        return as_real(open_finetuned(expand_path(path), base))

    solved = _solved(config, method, [base, *models.values()], statistic_files)
    real = {task: as_real(model) for task, model in models.items()}
    inputs = MergeInputs(base_model, real, depth, is_layer_by_name, device, False, by_kind, read_model, solved)
    for sentence in (*repetitions(pretrained, finetuned), *(each for model in (base, *models.values()) for each in model.notes)):
        note(sentence)
    check_rank(config, method, inputs)
    _check_integers(inputs, base, note)
    for sentence in method.notes(inputs):
        note(sentence)
    provenance = _provenance(config, method, base, models)
    masks = load_masks(load or False, None, provenance, inputs.outline, method.coefficients(len(models))) if provenance else None
    if masks:
        method = method.with_masks(masks.masks)
    lambdas = masks.lambdas if masks and method.per_task else None
    return UnscoredMerge(base, inputs, method(inputs), lambdas or dict.fromkeys(models, coefficient), provenance, masks)


def write_merge(config: DictConfig, merge: UnscoredMerge, note: Listener) -> None:
    """Write what `output` and `output_kind` ask for, an entry in memory at a time.

    note: listener, which hears what does not come along.
    """
    write_output(config, merge.merges, merge.coefficients, merge.inputs, merge.pretrained, merge.provenance, note)
    if merge.inputs.solved:
        merge.inputs.solved.remove()


def _open(pretrained: Source, finetuned: Mapping[str, Source], device: torch.device) -> tuple[StateDict, dict[str, StateDict]]:
    """Return the pre-trained model and the fine-tuned ones by task, under its names; each a checkpoint, or a model in memory.

    device: to compute on, where models in memory are read if they lie there.

    Raise UserError with the problems of all that cannot be opened.
    """
    in_memory = [source for source in (pretrained, *finetuned.values()) if isinstance(source, Mapping)]
    place = common_device(in_memory, device)
    base = open_checkpoint(pretrained) if isinstance(pretrained, Path) else model_in_memory(PRETRAINED, pretrained, place)
    models: dict[str, StateDict] = {}
    problems: list[str] = []
    for task, source in finetuned.items():
        with collect(problems):
            is_path = isinstance(source, Path)
            models[task] = open_finetuned(source, base) if is_path else model_in_memory(task, source, place, base)
    raise_any(problems)
    return base, models


def _depth(config: DictConfig, pretrained: StateDict) -> Callable[[str], float | None]:
    """Return the function from a parameter's name to its depth; to None where nothing asks for it, or where an analysis does
    and no name has a block's number."""
    try:
        if config.method.apply_lines or config.analysis:
            return depth_by_name(pretrained, config.method.depth_pattern)
    except UserError:
        if config.method.apply_lines:
            raise
    return lambda key: None


def _files_of(*models: StateDict) -> list[Path]:
    """Return the paths and weight files of those models that are on disk."""
    return [file for model in models if isinstance(model, Checkpoint) for file in (model.path, *model.files)]


def _solved(config: DictConfig, method: Method, models: Sequence[StateDict], statistics: Sequence[Path]) -> SolvedEntries | None:
    """Return where entries that take long are kept beside `output`; None without one, and for models in memory, which no
    later run is known to have."""
    if not config.output or not all(isinstance(model, Checkpoint) for model in models):
        return None
    output = expand_path(config.output)
    return SolvedEntries(output.with_name(f"{output.name}.solved"), [method.description, *_identity(models, statistics)])


def _identity(models: Sequence[Checkpoint], statistics: Sequence[Path]) -> list:
    """Return what tells the files of a merge from others, as JSON values: their paths, sizes and times of change."""
    files = [*(file for model in models for file in model.files), *statistics]
    return [[str(model.path) for model in models], *map(file_state, files)]


def _check_integers(inputs: MergeInputs, pretrained: StateDict, note: Listener) -> None:
    """Note entries that are no floating-point numbers and that fine-tuning changed; raise UserError if they are codes."""
    integers = inputs.changed_integers()
    if codes := [key for key in integers if pretrained.outline[key].ndim > 1]:
        raise UserError(
            f"{shorten(codes)} hold integers that fine-tuning changed: codes of a quantisation, it seems, which no method merges;"
            " load the models without it, and save them in 16 bit first"
        )
    if integers:
        note(f"not merged, but kept as in the pre-trained model, though fine-tuning changed them: {shorten(integers)}")


def _provenance(
    config: DictConfig, method: Method, pretrained: StateDict, finetuned: Mapping[str, StateDict]
) -> MaskProvenance | None:
    """Return what masks are of, where they are loaded or written in a bundle, which all models are read for; else None."""
    if not config.method.get("load_mask", False) and config.output_kind != "bundle":
        return None
    digests = {task: digest(model.items()) for task, model in finetuned.items()}
    return MaskProvenance(method.mask_base, digest(pretrained.items()), digests)
