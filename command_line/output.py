"""The output of a merge: the merged weights, and the analysis of what the tasks share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from command_line.config import method_name
from src.checkpoints.bundles import save_bundle
from src.checkpoints.companions import companions_of
from src.checkpoints.mask_files import MaskProvenance
from src.checkpoints.peft.writing import is_targetable, save_adapter
from src.checkpoints.reading import Checkpoint
from src.checkpoints.shards import split_part
from src.checkpoints.writing import check_target, save_by_task, save_file, save_folder
from src.elementwise import add_vector, as_complex
from src.errors import UserError, plural, shorten
from src.merging.engine.inputs import MergeInputs
from src.merging.low_rank import LowRankForm
from src.merging.method import MergeFamily, Method
from src.merging.subspace import makes_factors
from src.runtime.files import expand_path, write_json
from src.state_dict import Lazy, StateDict, byte_size, outline
from src.task_vectors import TaskVector


def check_output(config: DictConfig, method: Method, inputs: Iterable[Path], pretrained: StateDict, tasks: int) -> None:
    """Raise UserError, before any work, if what `output` asks for cannot be written or would destroy an input."""
    if config.output_kind == "bundle" and not method.per_task:
        raise UserError(
            f"method={method_name(config)} makes one model: there is nothing to bundle; use output_kind=model or task_vector"
        )
    if config.output_kind == "adapter" and method.per_task:
        raise UserError(
            f"method={method_name(config)} makes a model for each task, and an adapter is of one; use output_kind=model or bundle"
        )
    if not config.output:
        return
    path, masks = expand_path(config.output), config.method.get("load_mask")
    options = [*method.files, *([masks] if isinstance(masks, str) else [])]
    inputs = [*inputs, *(split_part(expand_path(option))[0] for option in options)]
    if method.per_task and path.suffix == ".safetensors":
        raise UserError(f"output={path}: this method makes a model for each task, which a folder holds; name a folder")
    if config.output_kind == "adapter" and path.suffix == ".safetensors":
        raise UserError(f"output={path}: an adapter is a folder with its settings in it; name a folder")
    copies = {"bundle": 2, "adapter": 0}.get(config.output_kind, tasks if method.per_task else 1)
    check_target(path, method.per_task or path.suffix != ".safetensors", inputs, copies * byte_size(pretrained))


def check_rank(config: DictConfig, method: Method, inputs: MergeInputs) -> None:
    """Raise UserError if an adapter is asked for, and nothing says of which rank."""
    if config.output_kind == "adapter" and config.rank is None and not makes_factors(method, inputs):
        advice = "method.space=core, or " if len(inputs.adapters) == len(inputs.tasks) else ""
        raise UserError(
            f"output_kind=adapter: method={method_name(config)} merges whole matrices, of any rank; give {advice}rank=R to keep "
            "R directions of each"
        )


def merged_contents(
    config: DictConfig, merges: MergeFamily, coefficients: Mapping[str, float | None], pretrained: StateDict
) -> dict[str, StateDict]:
    """Return by task, lazily, the models that `output_kind=model` asks for, or the vectors that `task_vector` does."""
    vectors = {task: as_complex(vector, pretrained) for task, vector in merges.at(coefficients).items()}
    is_model = config.output_kind == "model"
    return {task: add_vector(pretrained, vector) if is_model else vector for task, vector in vectors.items()}


def write_output(
    config: DictConfig,
    merges: MergeFamily,
    coefficients: Mapping[str, float | None],
    inputs: MergeInputs,
    pretrained: StateDict,
    provenance: MaskProvenance | None,
    note: Callable[[str], None] = print,
) -> int | None:
    """Write what `output` and `output_kind` ask for; return the bytes that a bundle takes on disk.

    note: listener, which hears what does not come along.
    """
    path = expand_path(config.output)
    if config.output_kind == "bundle":
        facts = {"method": method_name(config), **provenance.facts(coefficients, None)}
        return save_bundle(merges.compact(coefficients), pretrained, path, facts)
    if config.output_kind == "adapter":
        _write_adapter(config, merges.at(coefficients), inputs, pretrained, note)
        return None
    contents = merged_contents(config, merges, coefficients, pretrained)
    metadata = {"kind": config.output_kind, "method": method_name(config), "tasks": ",".join(contents)}
    if merges.compact:
        save_by_task(contents, path, metadata)
    elif path.suffix == ".safetensors":
        save_file(next(iter(contents.values())), path, metadata)
    else:
        save_folder(next(iter(contents.values())), path, pretrained, metadata)
        folder = pretrained.folder if isinstance(pretrained, Checkpoint) else None
        if folder and (left := companions_of(folder, pretrained.files).left):
            note(f"not copied from {folder}: {shorten(left, 10)}")
        elif isinstance(pretrained, Checkpoint) and not folder and (pretrained.path.parent / "config.json").exists():
            note(f"only weights are in {path}: give the folder {pretrained.path.parent} as pretrained= for what lies beside them")
    return None


def _write_adapter(
    config: DictConfig, vectors: Mapping[str, TaskVector], inputs: MergeInputs, pretrained: StateDict, note: Callable[[str], None]
) -> None:
    """Write the vector that all tasks share as an adapter."""
    path, vector = expand_path(config.output), next(iter(vectors.values()))
    form = LowRankForm.of(vector, inputs, config.rank, is_targetable)
    if not form.factors:
        raise UserError(f"output={path}: the merge changes no matrix that an adapter could hold; use output_kind=model")
    model = add_vector(pretrained, as_complex(vector, pretrained))
    whole = Lazy({key: outline(model)[key] for key in form.whole}, model.__getitem__)
    bases = {adapter.base_model for adapter in inputs.adapters.values()}
    metadata = {"kind": "adapter", "method": method_name(config), "tasks": ",".join(vectors)}
    save_adapter(form.factors, whole, outline(pretrained), path, bases.pop() if len(bases) == 1 else None, metadata)
    if form.whole:
        note(f"whole in {path}, beside the factors of {plural(len(form.factors), 'layer')}: {shorten(form.whole)}")
    if config.rank is not None:
        note(f"rank={config.rank} keeps {100 * form.kept:.1f} % of the squared norm of the matrices' change")


def publish_analysis(inputs: MergeInputs, masks: Mapping[str, StateDict] | None, title: str, folder: Path) -> None:
    """Write the analysis of what the tasks share, as `analysis.json` and as figures."""
    from rich.console import Console

    from src.experiments.analysis import analyse, show_analysis
    from src.reports.analysis_figures import draw_analysis  # matplotlib is slow to import, and few runs draw

    analysis = analyse(inputs, masks)
    show_analysis(analysis, Console())
    write_json(folder / "analysis.json", asdict(analysis))
    for path in (folder / "analysis.json", *draw_analysis(analysis, title, folder)):
        print(path)
    if masks is None:
        print("no figure of masks: this method uses none (tall_mask, consensus, mag_masking and emr do)")
