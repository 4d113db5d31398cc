"""How fast a split is decoded and scored, and where the time goes: ViT-B-32 with random weights, drawn photographs.

    python -m benchmarks.evaluate                    on the CPU: --images 192 by 10 coefficients
    python -m benchmarks.evaluate --device cuda      also images/s of fp32, bf16 and fp16, with and without torch.compile

Decoding stands beside a torchvision loader with two workers on the same JPEG files (500 x 375, bicubic to 224).
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import open_clip
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from benchmarks.inputs import clip_encoders
from command_line.build import batch_size_of, build_device, build_family, build_method
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.opening import open_all
from src.evaluation.cache import Cache
from src.evaluation.evaluator import Evaluator
from src.evaluation.scorer import Scorer
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import choose
from src.merging.engine.inputs import MergeInputs
from src.models.family import PRECISIONS, ModelFamily

CLASSES, COEFFICIENTS = 10, [n / 10 for n in range(1, 11)]


class Photographs(Dataset):
    """JPEG files of smooth noise, as large as a photograph of the benchmarks is."""

    def __init__(self, folder: Path, count: int):
        self.files = [folder / f"{number}.jpg" for number in range(count)]
        for number, file in enumerate(self.files):
            noise = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[index]).convert("RGB"), index % CLASSES


@dataclass(frozen=True)
class Album:
    """A task of so many photographs, which counts how often one is read."""

    folder: Path
    count: int
    reads: Counter
    name: str = "Album"
    templates: tuple[str, ...] = ("a photo of a {}.",)
    classes: tuple[str, ...] = tuple(f"class {number}" for number in range(CLASSES))

    @cached_property
    def _photographs(self) -> Photographs:
        return Photographs(self.folder, self.count)

    def examples(self, split: str) -> "Counted":
        return Counted(self._photographs, self.reads)

    def fingerprint(self, split: str) -> str:
        return f"{self.folder} {self.count}"


@dataclass(frozen=True)
class Counted:
    photographs: Photographs
    reads: Counter

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.reads["images"] += 1
        return self.photographs[index]


class Preprocessed(Dataset):
    """As a torchvision loader does it: decoded, resized, made floats, normalised."""

    def __init__(self, photographs: Photographs):
        self._photographs = photographs
        self._transform = open_clip.image_transform(224, is_train=False)

    def __len__(self) -> int:
        return len(self._photographs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self._photographs[index]
        return self._transform(image), label


class Clock:
    """Adds up the time spent in a function."""

    def __init__(self, function: Callable):
        self._function, self.seconds = function, 0.0

    def __call__(self, *arguments: object) -> object:
        started = time.perf_counter()
        found = self._function(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return found


def family_with(overrides: list[str], cache: Path, device: torch.device) -> tuple[ModelFamily, DictConfig]:
    options = ["model=ViT-B-32", "model.pretrained=null", f"cache_dir={cache}", f"model_location={cache}", *overrides]
    config = compose_config(options)
    return build_family(config, paths_of(config), device), config


def decoding(task: Album, family: ModelFamily, console: Console) -> None:
    started = time.perf_counter()
    family.data_digest(task, "val")
    ours = task.count / (time.perf_counter() - started)
    loader = DataLoader(Preprocessed(task.examples("val").photographs), batch_size=64, num_workers=2)
    started = time.perf_counter()
    for _ in loader:
        pass
    theirs = task.count / (time.perf_counter() - started)
    console.print(f"decoding to 224 pixels: {ours:.0f} images/s; a torchvision loader with 2 workers: {theirs:.0f}")


def session(task: Album, family: ModelFamily, config: DictConfig, cache: Path, device: torch.device, console: Console) -> None:
    """Ten coefficients of the sum of two random fine-tuned encoders, through the code that main.py searches with."""
    pretrained, finetuned = clip_encoders(2)
    names = {f"task{number}": path for number, path in enumerate(finetuned)}
    checkpoints = open_all({"pretrained": pretrained, **names})
    inputs = MergeInputs(checkpoints.pop("pretrained"), checkpoints, family.depth, family.is_layer, device, keep=True)
    clock = family._clip.visual.forward = Clock(family._clip.visual.forward)
    scorer = Scorer(family, Cache(cache), batch_size_of(config, device), lambda what, done: None)
    evaluator = Evaluator(scorer, Cache(cache), {"task0": task}, {"task0": checkpoints["task0"]}, inputs, candidates_per_pass=4)
    method = build_method(compose_config(["method=sum"]))
    family.prepare(task)
    before = task.reads["images"]
    started = time.perf_counter()
    choose(method, method(inputs), COEFFICIENTS, evaluator, STRATEGIES["grid"])
    seconds = time.perf_counter() - started
    images = task.count * (len(COEFFICIENTS) + 1)
    console.print(
        f"{len(COEFFICIENTS)} coefficients and the fine-tuned reference on {task.count} images: {seconds:.1f} s, "
        f"{images / seconds:.1f} images/s, {100 * clock.seconds / seconds:.1f} % of it in the model's forward pass; "
        f"images decoded meanwhile: {task.reads['images'] - before}"
    )


def precisions(task: Album, cache: Path, device: torch.device, console: Console) -> None:
    """Images/s of predictions alone on the device, after a warm-up pass, and how many differ from float32's."""
    exact = None
    for compiled in (False, True):
        for precision in PRECISIONS:
            family, config = family_with([f"precision={precision}", f"compile={str(compiled).lower()}"], cache, device)
            torch.manual_seed(0)
            weights = {key: torch.randn_like(leaf) * 0.02 for key, leaf in family.pretrained.items()}
            family.prepare(task)
            predict, size = family.predictor(weights), min(batch_size_of(config, device), task.count)
            batches = [batch for span in family.spans(task, "val") for batch in family.batches(task, "val", size, span)]
            batches = [batch for batch in batches if len(batch.labels) == size] * 10
            predict(batches[0])
            torch.cuda.synchronize()
            started = time.perf_counter()
            found = [predict(batch) for batch in batches]
            torch.cuda.synchronize()
            rate = len(batches) * size / (time.perf_counter() - started)
            exact = exact or found
            different = sum(int((ours != theirs).sum()) for ours, theirs in zip(found, exact))
            console.print(
                f"{precision}{', compiled' if compiled else ''}: {rate:.0f} images/s; "
                f"{different} of {len(batches) * size} predictions differ from float32's"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="default: 192, and 4096 on a GPU")
    options = parser.parse_args()
    device, console = build_device(compose_config([f"device={options.device}"])), Console(soft_wrap=True)
    images = options.images or (4096 if device.type == "cuda" else 192)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photographs").mkdir()
        cache = Path(folder) / "cache"
        task = Album(Path(folder) / "photographs", images, Counter())
        task.examples("val")
        family, config = family_with([], cache, device)
        decoding(task, family, console)
        session(task, family, config, cache, device, console)
        if device.type == "cuda":
            precisions(task, cache, device, console)


if __name__ == "__main__":
    main()
