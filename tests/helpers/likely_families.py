"""Model families whose statistics tests collect: the golden T5 and its (IA)^3, and the demo's CLIP on a few images of noise."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor

from src.models.family import Batch, ModelFamily
from src.models.t5 import T5
from tests.helpers.text_models import FILES, GOLDEN, GoldenTask

CPU = torch.device("cpu")
IMAGES = 6


class NoiseImages:
    """A CLIP whose tasks have six images of noise each, in one span."""

    def __init__(self, family: ModelFamily):
        self._family = family
        draw = torch.Generator().manual_seed(0)
        self._pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=draw)
        self._labels = torch.arange(IMAGES) % 3

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)

    def linearized(self) -> "NoiseImages":
        return NoiseImages(self._family.linearized())

    def with_labels(self, change: Callable[[Tensor], Tensor]) -> "NoiseImages":
        other = NoiseImages(self._family)
        other._labels = change(self._labels)
        return other

    def spans(self, task: object, split: str) -> list[range]:
        return [range(IMAGES)]

    def count(self, task: object, split: str) -> int:
        return IMAGES

    def data_digest(self, task: object, split: str) -> str:
        return f"noise {split}"

    def batches(self, task: object, split: str, size: int, span: range) -> Iterator[Batch]:
        part = slice(span.start, span.stop)
        for pixels, labels in zip(self._pixels[part].split(size), self._labels[part].split(size)):
            yield Batch(task.name, pixels.to(self._family.device), labels.to(self._family.device))


@cache
def text_family(device: torch.device = CPU) -> T5:
    family = T5("T5", str(FILES.weights), device, GOLDEN)
    for name in ("alpha", "beta", "gamma"):
        family.prepare(GoldenTask(name))
    return family


@cache
def ia3_family(device: torch.device = CPU) -> T5:
    return text_family(device).with_ia3()


@cache
def image_family(device: torch.device = CPU) -> NoiseImages:
    from command_line.build import build_family
    from command_line.config import compose_config
    from command_line.paths import paths_of
    from src.data.registry import find_tasks

    folder = Path(mkdtemp())
    config = compose_config([f"model_location={folder}", f"cache_dir={folder}"])
    family = build_family(config, paths_of(config), device)
    for task in find_tasks(["Arrows", "Shapes"]):
        family.prepare(task)
    return NoiseImages(family)


@cache
def image_task() -> object:
    from src.data.registry import find_tasks

    return find_tasks(["Arrows"])[0]


@cache
def other_image_task() -> object:
    from src.data.registry import find_tasks

    return find_tasks(["Shapes"])[0]
