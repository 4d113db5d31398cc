"""Models with random weights and batches of noise: nothing is downloaded, and no image is read."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import wait_for
from command_line.build import build_family, build_mode
from command_line.config import compose_config
from command_line.paths import paths_of
from src.models.family import Batch, ModelFamily
from src.training.loop import TrainingSettings, finetune
from src.training.recipe import Recipe

MODES = ("standard", "linear", "linear-2", "lora")
CLASSES = tuple(f"class {number}" for number in range(10))


@dataclass(frozen=True)
class NoiseTask:
    """A task of `count` examples, none of which is read."""

    count: int
    name: str = "Noise"
    definition: str = "noise"
    classes: Sequence[str] = CLASSES
    templates: Sequence[str] = ("a photo of a {}.",)

    def examples(self, split: str) -> range:
        return range(self.count)

    def training_examples(self) -> range:
        return self.examples("train")

    def fingerprint(self, split: str) -> str:
        return split


class OneBatchFamily:
    """A family whose training batches are all `batch`."""

    def __init__(self, family: ModelFamily, batch: Batch):
        self._family, self._batch = family, batch

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)

    def training_batches(self, task: NoiseTask, batches: Iterable[Sequence], seed: int, workers: int) -> Iterator[Batch]:
        return (self._batch for _ in batches)


@dataclass
class StepClock:
    """A progress listener that records the seconds of each step; it waits for a GPU to finish the step first."""

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    _last: float = 0.0

    def plan(self, more: int) -> None:
        pass

    def report(self, what: str, done: int) -> None:
        wait_for(self.device)
        now = time.perf_counter()
        if done:
            self.seconds.append(now - self._last)
        self._last = now


def random_family(model: str, device: torch.device, folder: Path, *overrides: str) -> ModelFamily:
    """Return a model family, with random weights unless it is the demo's, ready for batches of noise.

    folder: for its cache and checkpoints.
    """
    torch.manual_seed(0)
    random = [] if model == "ViT-demo" else ["model.pretrained=null"]
    config = compose_config([f"model={model}", f"cache_dir={folder}", f"model_location={folder}", *random, *overrides])
    family = build_family(config, paths_of(config), device)
    family.prepare(NoiseTask(1))
    return family


def noise_batch(family: ModelFamily, size: int) -> Batch:
    """Return a batch of noise for a family, on its device."""
    side = next(iter(family._train_transform.transforms)).size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, *side), dtype=torch.uint8, generator=draw)
    labels = torch.randint(len(CLASSES), (size,), generator=draw)
    return Batch("Noise", pixels.to(family.device), labels.to(family.device))


def time_steps(family: ModelFamily, mode_name: str, batch: Batch, steps: int, precision: str, folder: Path) -> list[float]:
    """Return the seconds of each step but the first of a fine-tuning by the program's own loop."""
    mode, size = build_mode(compose_config([f"finetuning_mode={mode_name}"])), len(batch.labels)
    recipe = Recipe(
        lr=1e-5, weight_decay=0.1, warmup_steps=5, epochs=1, batch_size=size, num_grad_accumulation=1, max_grad_norm=1.0, seed=0
    )
    path = folder / "lora_finetuned" / "adapter_model.safetensors" if mode.lora else folder / f"{mode.name}_finetuned.safetensors"
    clock = StepClock(family.device)
    settings = TrainingSettings(precision=precision, log_steps=1000, progress=clock)
    finetune(OneBatchFamily(family, batch), NoiseTask(size * steps), recipe, mode, path, settings)
    return clock.seconds[1:]


def training_flops(family: ModelFamily, batch: Batch) -> int:
    """Return the floating-point operations of one standard pass, forward and back."""
    trainable = family.trainable(build_mode(compose_config([])))
    with FlopCounterMode(display=False) as counter:
        trainable(batch).backward()
    return counter.get_total_flops()


def prediction_flops(family: ModelFamily, batch: Batch) -> int:
    """Return the floating-point operations of predicting a batch."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whose one operation is not counted
    try:
        with FlopCounterMode(display=False) as counter:
            family.predictor(family.pretrained)(batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()
