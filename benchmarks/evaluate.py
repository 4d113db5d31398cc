"""How fast a split is decoded and scored, and where the time goes: ViT-B-32 with random weights, drawn photographs.

    python -m benchmarks.evaluate                    on the CPU: --images 192 by 10 coefficients
    python -m benchmarks.evaluate --device cuda      also images/s of fp32, bf16 and fp16, with and without torch.compile

Decoding stands beside a torchvision loader with two workers on the same JPEG files (500 x 375, bicubic to 224).
"""

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
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from benchmarks.inputs import clip_encoders
from benchmarks.machine import parser_of, wait_for
from benchmarks.noise import noise_batch, random_family
from command_line.build import build_device, build_method
from command_line.config import compose_config
from src.checkpoints.opening import open_all
from src.evaluation.cache import Cache
from src.evaluation.evaluator import Evaluator
from src.evaluation.scorer import Scorer
from src.evaluation.search import STRATEGIES
from src.evaluation.selection import choose
from src.merging.engine.inputs import MergeInputs
from src.models.family import PRECISIONS, ModelFamily
from src.runtime.memory import keep_freed_memory

WARM_UP = 4  # passes: torch.compile is at work in the first three
CLASSES, COEFFICIENTS = 10, [n / 10 for n in range(1, 11)]


class Photographs(Dataset):
    """(image, label) of JPEG files of smooth noise, 500 x 375 pixels, written into `folder`."""

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
class PhotographTask:
    """A task of `count` photographs that counts how many are read, in `reads["images"]`."""

    folder: Path
    count: int
    reads: Counter
    name: str = "Photographs"
    templates: tuple[str, ...] = ("a photo of a {}.",)
    classes: tuple[str, ...] = tuple(f"class {number}" for number in range(CLASSES))

    @cached_property
    def _photographs(self) -> Photographs:
        return Photographs(self.folder, self.count)

    def examples(self, split: str) -> "CountedReads":
        return CountedReads(self._photographs, self.reads)

    def fingerprint(self, split: str) -> str:
        return f"{self.folder} {self.count}"


@dataclass(frozen=True)
class CountedReads:
    """The photographs, with each read counted in `reads["images"]`."""

    photographs: Photographs
    reads: Counter

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.reads["images"] += 1
        return self.photographs[index]


class Preprocessed(Dataset):
    """Photographs preprocessed by torchvision: decoded, resized, converted to float, normalised."""

    def __init__(self, photographs: Photographs):
        self._photographs = photographs
        self._transform = open_clip.image_transform(224, is_train=False)

    def __len__(self) -> int:
        return len(self._photographs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self._photographs[index]
        return self._transform(image), label


class Clock:
    """Adds up the seconds spent in a function."""

    def __init__(self, function: Callable, device: torch.device):
        self._function, self._device, self.seconds = function, device, 0.0

    def __call__(self, *arguments: object) -> object:
        started = time.perf_counter()
        result = self._function(*arguments)
        wait_for(self._device)
        self.seconds += time.perf_counter() - started
        return result


def time_decoding(task: PhotographTask, family: ModelFamily, console: Console) -> None:
    """Print how fast the family decodes a task's images, and how fast a torchvision loader does."""
    started = time.perf_counter()
    family.data_digest(task, "val")
    ours = task.count / (time.perf_counter() - started)
    loader = DataLoader(Preprocessed(task.examples("val").photographs), batch_size=64, num_workers=2)
    started = time.perf_counter()
    for _ in loader:
        pass
    theirs = task.count / (time.perf_counter() - started)
    console.print(f"decoding to 224 pixels: {ours:.0f} images/s; a torchvision loader with 2 workers: {theirs:.0f}")


def time_search(task: PhotographTask, family: ModelFamily, finetuned: list[Path], cache: Path, console: Console) -> None:
    """Score ten coefficients of the sum of two random fine-tuned encoders, through the code that main.py searches with."""
    checkpoints = open_all({f"task{number}": path for number, path in enumerate(finetuned)})
    inputs = MergeInputs(family.pretrained, checkpoints, family.depth, family.is_layer, family.device, keep=True)
    clock = family._clip.visual.forward = Clock(family._clip.visual.forward, family.device)
    scorer = Scorer(family, Cache(cache), 512 if family.device.type == "cuda" else 64)
    evaluator = Evaluator(scorer, {"task0": task}, {"task0": checkpoints["task0"]}, inputs, candidates_per_pass=4)
    method = build_method(compose_config(["method=sum"]))
    family.prepare(task)
    if family.device.type == "cpu":
        keep_freed_memory()  # as a scored run does
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


def prediction_rate(family: ModelFamily, reference: ModelFamily, precision: str, size: int, batches: int) -> tuple[float, float]:
    """Return images/s of predictions alone, warmed up, and the share of them that differ from the reference's in fp32."""
    batch = noise_batch(family, size)
    exact = reference.predictor(reference.pretrained, "fp32")(batch)
    predict = family.predictor(family.pretrained, precision)
    for _ in range(WARM_UP):
        predictions = predict(batch)
    wait_for(family.device)
    started = time.perf_counter()
    for _ in range(batches):
        predict(batch)
    wait_for(family.device)
    seconds = time.perf_counter() - started
    return batches * size / seconds, (predictions != exact).double().mean().item()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="default: 192, and 4096 on a GPU")
    options = parser.parse_args()
    device, console = build_device(compose_config([f"device={options.device}"])), Console(soft_wrap=True)
    on_gpu = device.type == "cuda"
    pretrained, finetuned = clip_encoders(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        task = PhotographTask(folder / "photographs", options.images or (4096 if on_gpu else 192), Counter())
        task.examples("val")
        family = random_family("ViT-B-32", device, folder, f"pretrained={pretrained}")
        time_decoding(task, family, console)
        time_search(task, family, finetuned, folder / "cache", console)
        for compiled in (False, True) if on_gpu else ():
            plain = random_family("ViT-B-32", device, folder)
            compiling = random_family("ViT-B-32", device, folder, f"compile={str(compiled).lower()}")
            for precision in PRECISIONS:
                rate, different = prediction_rate(compiling, plain, precision, 512, 10)
                console.print(
                    f"{precision}{', compiled' if compiled else ''}: {rate:.0f} images/s; "
                    f"{100 * different:.2f} % of predictions differ from float32's"
                )


if __name__ == "__main__":
    main()
