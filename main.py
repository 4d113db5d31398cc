"""Merge fine-tuned models into one, choose its coefficient on validation data, score it on test data, save it.

    python main.py                                              task arithmetic on the bundled demo
    python main.py method=ties method.k=20 method.apply_lines=True
    python main.py model=files pretrained=A.safetensors finetuned=[B.pt,C.safetensors] specify_lambda=0.3 output=M.safetensors

`python main.py --help` explains the options.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import command_line
from command_line import Progress
from src.checkpoints.mask_files import MadeOf, facts_of
from src.checkpoints.peft import is_adapter, open_over
from src.checkpoints.reading import open_all
from src.checkpoints.writing import save_bundle, save_by_task, save_file, save_folder, size_of
from src.errors import UserError
from src.evaluation.lineage import benchmark_of, doubts, leaks, read_manifests
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import settle, with_saved_masks
from src.experiments.analysis import analyse
from src.experiments.merge import Result, Row
from src.experiments.storage import storage_of
from src.merging.engine.inputs import Ingredients
from src.merging.method import Family, Method
from src.models.depth import depth_by_name
from src.models.modes import POSTHOC
from src.runtime.distributed import join
from src.runtime.files import write_json
from src.state_dict import StateDict, added, digest


@hydra.main(version_base=None, config_path="config", config_name="config")
@command_line.speaks_plainly
def main(config: DictConfig) -> None:
    command_line.check_choices(config)
    method = command_line.build_method(config)
    if config.model.family is None:
        merge_files(config, method)
    else:
        merge_and_score(config, method)


def merge_files(config: DictConfig, method: Method) -> None:
    """Merge state dicts from disk into `output`, streaming; nothing is scored."""
    started = time.monotonic()
    base, sources = command_line.file_sources(config)
    method.check_tasks(list(sources))
    coefficient = command_line.specified_coefficient(config, method, len(sources))
    load = config.method.get("load_mask", False)
    if coefficient is None and not (load and method.per_task):
        raise UserError("model=files has no validation data to choose a coefficient on; give specify_lambda=NUMBER")
    adapters = {task: path for task, path in sources.items() if is_adapter(path)}
    opened = open_all({"the pre-trained model": base, **{task: path for task, path in sources.items() if task not in adapters}})
    pretrained = opened["the pre-trained model"]
    opened |= open_all(adapters, partial(open_over, pretrained=pretrained))
    finetuned = {task: opened[task] for task in sources}
    depth = depth_by_name(pretrained, config.method.depth_pattern) if config.method.apply_lines else lambda key: None
    given = Ingredients(pretrained, finetuned, depth, command_line.device_of(config), keep=False)
    inputs = [file for checkpoint in opened.values() for file in (checkpoint.path, *checkpoint.files)]
    command_line.check_output(config, method, inputs, pretrained, len(sources))
    made_of = None
    if load or config.output_kind == "bundle":
        digests = {task: digest(model.items()) for task, model in opened.items()}
        made_of = MadeOf(method.mask_base, digests.pop("the pre-trained model"), digests)
    prepared = with_saved_masks(method, load or False, None, given, made_of)
    known = prepared.masks.lambdas if prepared.masks and method.per_task else None
    coefficients = known or dict.fromkeys(sources, coefficient)
    candidates = prepared.method(given)
    save(config, candidates, coefficients, given, made_of)
    if config.analysis:
        folder = Path(config.results_dir).expanduser() / f"{Path(config.output).stem}-analysis"
        draw(given, candidates.masks_for(coefficients), f"{len(sources)} models", folder)
    for note in prepared.notes:
        print(note)
    seconds = time.monotonic() - started
    print(f"{config.output}: {len(sources)} models merged in {seconds:.1f} s")


def merge_and_score(config: DictConfig, method: Method) -> None:
    """Merge a model family's fine-tuned weights, search, score, show and save."""
    started = time.monotonic()
    if command_line.share_out(config):
        return
    team = join()
    tasks = command_line.selected_tasks(config)
    names = [task.name for task in tasks]
    method.check_tasks(names)
    specified = command_line.specified_coefficient(config, method, len(tasks))
    manifests = read_manifests(command_line.manifests(config))
    device = command_line.device_of(config)
    command_line.check_inputs(config, tasks)
    with Progress(silent=not team.leads) as progress:
        family = command_line.build_family(config, device, progress.report)
        command_line.check_output(
            config, method, command_line.checkpoint_paths(config, names).values(), family.pretrained, len(tasks)
        )
        command_line.fetch_data(config, tasks, team)
        measured = command_line.measurement(config, family, tasks, team, progress)
        given = measured.given
        progress.plan(sum(3 * family.count(task, "test") + family.count(task, "val") for task in tasks) // team.size)
        load, strategy = config.method.get("load_mask", False), STRATEGIES[config.search]
        settled = settle(method, specified, load, command_line.masks_folder(config), measured, strategy, progress.plan)
        rows = {task: Row(*scores) for task, scores in measured.compared(settled.vectors).items()}
        notes = [*settled.notes, *command_line.notes_on(config, measured.tasks)]
        finetuned = {task: row.finetuned for task, row in rows.items()}
        notes += leaks(measured.finetuned("val"), finetuned)
        if config.finetuning_mode.linearized != POSTHOC:  # the tangent model was not what learned
            notes += doubts({task: row.zeroshot for task, row in rows.items()}, finetuned)
        if family.precision != "fp32":
            different, seen = measured.narrowed(settled.vectors)
            notes.append(f"{family.precision} and float32 differ on {different} of {seen} of the merged model's predictions")
        lineage = command_line.lineage_of(config, measured, measured.tasks)
    if not team.leads:
        return
    candidates, coefficients = settled.candidates, settled.coefficients
    written = save(config, candidates, coefficients, given, settled.made_of) if config.output else None
    storage = storage_of(candidates.compact(coefficients), given.pretrained, written) if candidates.compact else None
    by_kind = ({task: getattr(row, kind).accuracy for task, row in rows.items()} for kind in ("merged", "finetuned", "zeroshot"))
    result = Result(
        title=f"{command_line.model_name(config)}, {len(tasks)} tasks, {command_line.method_name(config)}",
        config=OmegaConf.to_container(config, resolve=True),
        question=command_line.question(config, tasks),
        lineage={**lineage, **({"masks": settled.masks.digest} if settled.masks else {})},
        benchmark=benchmark_of(lineage, config.model.name, manifests),
        coefficients=coefficients,
        curve=settled.curve,
        searched=settled.searched,
        rows=rows,
        summary=method.summary(*by_kind),
        scale_by_depth=scale_by_depth(candidates, coefficients, given),
        bytes_stored=storage.bytes if storage else size_of(given.pretrained),
        storage=storage,
        notes=notes,
        seconds=time.monotonic() - started,
    )
    publish(config, result)
    if config.analysis:
        title = f"{command_line.model_name(config)}, {len(tasks)} tasks"
        draw(given, candidates.masks_for(coefficients), title, Path(config.results_dir).expanduser() / result.name)


def scale_by_depth(candidates: Family, coefficients: dict[str, float], given: Ingredients) -> list[tuple[str, float]]:
    """What LiNeS multiplies the entries outside all blocks, and those of each block, by; empty without LiNeS."""
    if candidates.scale is None:
        return []
    coefficient = next(iter(coefficients.values()))
    depths = sorted({depth for depth in map(given.depth, given.outline) if depth is not None})
    blocks = [(str(number), candidates.scale(coefficient, depth)) for number, depth in enumerate(depths)]
    return [("outside", candidates.scale(coefficient, None)), *blocks]


def publish(config: DictConfig, result: Result) -> None:
    """Print the table; write the record and the pictures."""
    from src.reports.figures import draw_accuracy, draw_scale_by_depth  # matplotlib is slow to import, and errors come before

    console = Console()
    result.show(console)
    folder = Path(config.results_dir).expanduser()
    record = result.save(folder)
    pictures = [folder / result.name / "accuracy.png"]
    draw_accuracy(result, pictures[0])
    if result.scale_by_depth:
        pictures.append(folder / result.name / "scale_by_depth.png")
        draw_scale_by_depth(result, pictures[1])
    for path in (record, *pictures):
        print(path)
    command_line.report_online(config, result, result.curve)


def draw(given: Ingredients, masks: Mapping[str, StateDict] | None, title: str, folder: Path) -> None:
    """Write what the tasks share, as numbers and as pictures."""
    from src.reports.analysis_figures import draw_analysis

    found = analyse(given, masks)
    write_json(folder / "analysis.json", asdict(found))
    for path in (folder / "analysis.json", *draw_analysis(found, title, folder)):
        print(path)
    if masks is None:
        print("no picture of masks: this method uses none (tall_mask, consensus and mag_masking do)")


def save(
    config: DictConfig, candidates: Family, coefficients: dict[str, float], given: Ingredients, made_of: MadeOf | None
) -> int | None:
    """Write what `output` and `output_kind` ask for; returns the bytes a bundle takes on disk."""
    path, pretrained = Path(config.output).expanduser(), given.pretrained
    if config.output_kind == "bundle":
        facts = {"method": command_line.method_name(config), **facts_of(made_of, coefficients, None)}
        return save_bundle(candidates.compact(coefficients), pretrained, path, facts)
    vectors = candidates.chosen(coefficients)
    whole = config.output_kind == "model"
    contents = {task: added(pretrained, vector) if whole else vector for task, vector in vectors.items()}
    metadata = {"kind": config.output_kind, "method": command_line.method_name(config), "tasks": ",".join(vectors)}
    if candidates.compact:
        save_by_task(contents, path, metadata)
    elif path.suffix == ".safetensors":
        save_file(next(iter(contents.values())), path, metadata)
    else:
        save_folder(next(iter(contents.values())), path, pretrained, metadata)
    return None


if __name__ == "__main__":
    main()
    sys.exit(command_line.exit_status())
