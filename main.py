"""Merge fine-tuned models into one, choose its coefficient on validation data, score it on test data, save it.

    python main.py                                              task arithmetic on the bundled demo
    python main.py method=ties method.k=20 method.apply_lines=True
    python main.py model=files pretrained=A.safetensors finetuned=[B.pt,C.safetensors] specify_lambda=0.3 output=M.safetensors

`python main.py --help` explains the options.
"""

import sys
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import command_line
from command_line import Progress
from src.cache import Cache
from src.checkpoints import open_all
from src.errors import UserError
from src.evaluate import Scorer
from src.measurement import Measurement
from src.merging.ingredients import Ingredients
from src.merging.method import Family, Method
from src.models.blocks import depth_by_name
from src.results import Result, Row
from src.saving import save_by_task, save_file, save_folder, size_of
from src.search import Asked, Point, search
from src.state_dict import StateDict, added
from src.task_vectors import TaskVector


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
    if coefficient is None:
        raise UserError("model=files has no validation data to choose a coefficient on; give specify_lambda=NUMBER")
    opened = open_all({"the pre-trained model": base, **sources})
    pretrained, finetuned = opened["the pre-trained model"], {task: opened[task] for task in sources}
    depth = depth_by_name(pretrained, config.method.depth_pattern) if config.method.apply_lines else lambda key: None
    given = Ingredients(pretrained, finetuned, depth, command_line.device_of(config), keep=False)
    inputs = [file for checkpoint in opened.values() for file in (checkpoint.path, *checkpoint.files)]
    command_line.check_output(config, method, inputs, pretrained, len(sources))
    save(config, method(given)(coefficient), pretrained, method)
    seconds = time.monotonic() - started
    print(f"{config.output}: {len(sources)} models merged in {seconds:.1f} s")


def merge_and_score(config: DictConfig, method: Method) -> None:
    """Merge a model family's fine-tuned weights, search, score, show and save."""
    started = time.monotonic()
    tasks = command_line.selected_tasks(config)
    method.check_tasks([task.name for task in tasks])
    specified = command_line.specified_coefficient(config, method, len(tasks))
    device = command_line.device_of(config)
    family = command_line.build_family(config, device)
    inputs = [command_line.checkpoint_path(config, task.name) for task in tasks]
    command_line.check_output(config, method, inputs, family.pretrained, len(tasks))
    command_line.require_checkpoints(config, family, tasks)
    checkpoints = open_all({task.name: command_line.checkpoint_path(config, task.name) for task in tasks})
    given = Ingredients(family.pretrained, checkpoints, family.depth, device, keep=True)
    candidates = method(given)
    coefficients = method.coefficients(len(tasks)) if specified is None else (specified,)
    cache = Cache(Path(config.cache_dir).expanduser())
    with Progress() as progress:
        scorer = Scorer(family, cache, config.batch_size, progress.report)
        measured = Measurement(scorer, cache, {task.name: task for task in tasks}, checkpoints, given)
        tests, vals = (sum(len(task.examples(split)) for task in tasks) for split in ("test", "val"))
        progress.plan(3 * tests + (1 + len(coefficients)) * vals * (len(coefficients) > 1))
        coefficient, curve = choose(method, candidates, coefficients, measured)
        vectors = candidates(coefficient)
        merged = measured.merged(vectors, "test", f"coefficient {coefficient:.4g}")
        rows = {task: Row(measured.zeroshot(task, "test"), measured.finetuned(task, "test"), merged[task]) for task in merged}
    by_kind = ({task: getattr(row, kind).accuracy for task, row in rows.items()} for kind in ("merged", "finetuned", "zeroshot"))
    result = Result(
        title=f"{config.model.name}, {len(tasks)} tasks, {command_line.method_name(config)}",
        config=OmegaConf.to_container(config, resolve=True),
        question=command_line.question(config, tasks),
        lineage=measured.lineage(),
        coefficient=coefficient,
        curve=curve,
        rows=rows,
        summary=method.summary(*by_kind),
        scale_by_depth=scale_by_depth(candidates, coefficient, given),
        bytes_stored=size_of(given.pretrained),
        seconds=time.monotonic() - started,
    )
    publish(config, result)
    if config.output:
        save(config, vectors, given.pretrained, method)


def choose(
    method: Method, candidates: Family, coefficients: tuple[float, ...], measured: Measurement
) -> tuple[float, list[Point]]:
    """The best coefficient on validation data and the curve; nothing is measured where there is no choice."""
    if len(coefficients) == 1:
        return coefficients[0], []

    def measure(vectors: dict[str, TaskVector], coefficient: float) -> dict[str, float]:
        scores = measured.merged(vectors, "val", f"coefficient {coefficient:.4g}")
        return {task: score.accuracy for task, score in scores.items()}

    finetuned = Asked(tuple(measured.tasks), lambda task: measured.finetuned(task, "val").accuracy)
    zeroshot = Asked(tuple(measured.tasks), lambda task: measured.zeroshot(task, "val").accuracy)
    return search(method, candidates, coefficients, measure, finetuned, zeroshot)


def scale_by_depth(candidates: Family, coefficient: float, given: Ingredients) -> list[tuple[str, float]]:
    """What LiNeS multiplies the entries outside all blocks, and those of each block, by; empty without LiNeS."""
    if candidates.scale is None:
        return []
    depths = sorted({depth for depth in map(given.depth, given.outline) if depth is not None})
    blocks = [(str(number), candidates.scale(coefficient, depth)) for number, depth in enumerate(depths)]
    return [("outside", candidates.scale(coefficient, None)), *blocks]


def publish(config: DictConfig, result: Result) -> None:
    """Print the table; write the record and the pictures."""
    from src.figures import draw_accuracy, draw_scale_by_depth  # matplotlib is slow to import, and errors come before

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
    command_line.report_online(config, result)


def save(config: DictConfig, vectors: dict[str, TaskVector], pretrained: StateDict, method: Method) -> None:
    """Write what `output` and `output_kind` ask for."""
    path = Path(config.output).expanduser()
    whole = config.output_kind == "model"
    contents = {task: added(pretrained, vector) if whole else vector for task, vector in vectors.items()}
    metadata = {"kind": config.output_kind, "method": command_line.method_name(config), "tasks": ",".join(vectors)}
    if method.per_task:
        save_by_task(contents, path, metadata)
    elif path.suffix == ".safetensors":
        save_file(next(iter(contents.values())), path, metadata)
    else:
        save_folder(next(iter(contents.values())), path, pretrained, metadata)


if __name__ == "__main__":
    main()
    sys.exit(command_line.exit_status())
