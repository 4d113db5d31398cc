"""Eight small image tasks, drawn from a seed: the demo needs no download and still behaves like a benchmark.

Every task can be drawn in two manners. The `PLAIN` manner (dark on light, uncluttered) is what the demo's CLIP was
pre-trained on. Each task's own manner (noise, clutter, inversion, low contrast, mirroring, blur) is what it is
fine-tuned and tested on, so zero-shot accuracy leaves room for fine-tuning and merging to matter.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import Dataset

from src.data.demo import glyphs
from src.data.demo.drawing import Strokes, paint, turn
from src.data.task import Task

SIZE = 32
DRAWING = "38b4344b900d150e63cd69319890eed1"  # another word whenever the same seed comes to draw other images (a test tells)


@dataclass(frozen=True)
class DrawingStyle:
    """How a scene is drawn. Ranges are (low, high) of a uniform draw; fractions and colours are in 0..1."""

    ground: tuple[float, float] = (0.8, 1.0)
    ink: tuple[float, float] = (0.0, 0.3)
    tint: float = 0.1
    radius: tuple[float, float] = (0.07, 0.13)
    scale: tuple[float, float] = (0.5, 0.85)
    stretch: float = 0.1
    angle: float = 12.0
    shift: float = 0.15
    inverted: float = 0.0
    clutter: int = 0
    noise: float = 0.04
    blur: float = 0.0
    mirrored: bool = False


PLAIN = DrawingStyle()


@dataclass(frozen=True)
class DrawnTask:
    """One demo task: `classes` names in label order, prompt `templates`, and how an image of a class comes about.

    `scene(labels, manner, generator)` gives strokes whose colour is a single ink, filled in by `draw`; a task whose
    classes are colours gives `inks`, (classes, 3), which then replace the manner's ink.
    """

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    scene: Callable[[Tensor, DrawingStyle, Generator], tuple[Tensor, Tensor]]
    style: DrawingStyle
    inks: tuple[tuple[float, float, float], ...] | None = None

    kind: ClassVar[str] = "Drawn"

    def draw(self, labels: Tensor, style: DrawingStyle, generator: Generator) -> Tensor:
        """uint8 images (n, 3, SIZE, SIZE) of the classes `labels` (n,), on the device of `labels`."""
        uniform = _uniform(labels, generator)
        count = len(labels)
        ground = uniform(count, 1, low=style.ground[0], high=style.ground[1])
        ink = uniform(count, 1, low=style.ink[0], high=style.ink[1])
        flipped = uniform(count, 1) < style.inverted
        ground, ink = torch.where(flipped, 1 - ground, ground), torch.where(flipped, 1 - ink, ink)
        ground = ground + uniform(count, 3, low=-style.tint, high=style.tint)
        ink = ink + uniform(count, 3, low=-style.tint, high=style.tint)
        if self.inks is not None:
            ink = torch.tensor(self.inks, device=labels.device)[labels] * 0.85 + ink * 0.15
        ends, radius = self.scene(labels, style, generator)
        if style.mirrored:
            ends = ends * torch.tensor([-1.0, 1.0, -1.0, 1.0], device=labels.device)
        strokes = Strokes(ends, radius, ink[:, None].expand(-1, ends.shape[1], -1))
        if style.clutter:
            strokes = strokes.over(_clutter(ground, ink, style, uniform))
        image = paint(strokes, ground, SIZE)
        if style.blur:
            soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            image = image.lerp(soft, uniform(count, 1, 1, 1, high=style.blur))
        noise = torch.randn(image.shape, generator=generator, device=labels.device)
        image = image + noise * uniform(count, 1, 1, 1, high=2 * style.noise)
        return (image.clamp_(0, 1) * 255).round_().to(torch.uint8)

    def images(self, subset: str, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` images (count, 3, SIZE, SIZE), uint8, and labels (count,) of `train` or `test`."""
        seed = hashlib.sha256(f"{self.name}/{subset}".encode()).digest()[:7]
        generator = Generator().manual_seed(int.from_bytes(seed, "big"))
        labels = torch.randint(len(self.classes), (count,), generator=generator)
        return self.draw(labels, self.style, generator), labels

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(COUNTED)

    def load(self, subset: str) -> "DrawnExamples":
        return DrawnExamples(self, subset)

    def fingerprint(self, subset: str) -> str:
        """Return what changes when other images are drawn: the drawing code, and torch's random numbers."""
        return f"{DRAWING} {torch.__version__}"

    @property
    def notes(self) -> list[str]:
        return []

    def problems(self, fetched: bool = False) -> list[str]:
        return []

    def fetch(self, *_: object) -> None:
        """There is nothing to fetch."""

    @property
    def fetchable(self) -> bool:
        return False


def _uniform(like: Tensor, generator: Generator) -> Callable[..., Tensor]:
    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=like.device)

    return uniform


def _clutter(ground: Tensor, ink: Tensor, style: DrawingStyle, uniform: Callable[..., Tensor]) -> Strokes:
    """Short strokes of colours between ground and ink, painted under the scene."""
    count, pieces = len(ground), style.clutter
    start = uniform(count, pieces, 2, low=-1.1, high=1.1)
    ends = torch.cat((start, start + uniform(count, pieces, 2, low=-0.6, high=0.6)), -1)
    colour = ground[:, None].lerp(ink[:, None], uniform(count, pieces, 1, low=0.2, high=0.6))
    return Strokes(ends, uniform(count, pieces, low=0.03, high=0.12), colour)


def _table(drawings: dict[str, list]) -> tuple[Tensor, Tensor]:
    """(classes, longest, 4) segments and (classes, longest) whether each is drawn."""
    longest = max(map(len, drawings.values()))
    ends, drawn = torch.zeros(len(drawings), longest, 4), torch.zeros(len(drawings), longest, dtype=torch.bool)
    for row, segments in enumerate(drawings.values()):
        ends[row, : len(segments)] = torch.tensor(segments)
        drawn[row, : len(segments)] = True
    return ends, drawn


def _place(ends: Tensor, drawn: Tensor, style: DrawingStyle, generator: Generator, angle: Tensor | float = 0.0):
    """Turn, stretch and move each image's segments as the manner allows; `angle` in radians comes on top."""
    uniform, count = _uniform(ends, generator), len(ends)
    wobble = math.radians(style.angle)
    scale = uniform(count, 1, low=style.scale[0], high=style.scale[1])
    scale = scale * uniform(count, 2, low=1 - style.stretch, high=1 + style.stretch)
    shift = uniform(count, 2, low=-style.shift, high=style.shift)
    ends = turn(ends, uniform(count, low=-wobble, high=wobble) + angle, scale, shift)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1])
    return ends, torch.where(drawn, radius, -1.0)


def _glyph(drawings: dict[str, list]):
    ends, drawn = _table(drawings)

    def scene(labels: Tensor, style: DrawingStyle, generator: Generator):
        rows = labels.cpu()
        return _place(ends[rows].to(labels.device), drawn[rows].to(labels.device), style, generator)

    return scene


def _blob(labels: Tensor, style: DrawingStyle, generator: Generator):
    """Three thick strokes somewhere near the middle: a patch of colour without a meaning of its own."""
    uniform = _uniform(labels, generator)
    ends = uniform(len(labels), 3, 4, low=-0.5, high=0.5)
    return ends, uniform(len(labels), 3, low=0.15, high=0.35)


def _counted(labels: Tensor, style: DrawingStyle, generator: Generator):
    """`label + 1` discs in different cells of a jittered 4 x 4 board."""
    uniform, count = _uniform(labels, generator), len(labels)
    cells = uniform(count, 16).argsort(dim=1)
    centre = torch.stack((cells % 4, cells // 4), -1) * 0.5 - 0.75 + uniform(count, 16, 2, low=-0.08, high=0.08)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1]) * 1.4
    drawn = torch.arange(16, device=labels.device) <= labels[:, None]
    return torch.cat((centre, centre), -1)[:, :8], torch.where(drawn, radius, -1.0)[:, :8]


def _placed(labels: Tensor, style: DrawingStyle, generator: Generator):
    """One disc in cell `label` of a 3 x 3 board, row by row."""
    uniform, count = _uniform(labels, generator), len(labels)
    centre = torch.stack((labels % 3, labels // 3), -1) * 0.62 - 0.62 + uniform(count, 2, low=-0.13, high=0.13)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1]) * 2
    return torch.cat((centre, centre), -1)[:, None], radius


def _pointing(labels: Tensor, style: DrawingStyle, generator: Generator):
    ends = torch.tensor(glyphs.ARROW, device=labels.device).expand(len(labels), -1, -1)
    drawn = torch.ones(ends.shape[:2], dtype=torch.bool, device=labels.device)
    return _place(ends, drawn, style, generator, angle=-labels * (math.pi / 4))


COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "orange": (1.0, 0.55, 0.0),
    "yellow": (0.95, 0.9, 0.1),
    "green": (0.1, 0.65, 0.15),
    "cyan": (0.1, 0.85, 0.85),
    "blue": (0.1, 0.2, 0.9),
    "purple": (0.5, 0.1, 0.65),
    "pink": (1.0, 0.55, 0.75),
    "brown": (0.45, 0.25, 0.1),
    "grey": (0.5, 0.5, 0.5),
}
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = ("right", "up and right", "up", "up and left", "left", "down and left", "down", "down and right")

DRAWN = (
    DrawnTask(
        "Shapes",
        tuple(glyphs.SHAPES),
        ("a drawing of a {}.", "a picture of a {}.", "the shape of a {}."),
        _glyph(glyphs.SHAPES),
        DrawingStyle(ground=(0.5, 0.7), ink=(0.2, 0.35), angle=40, clutter=6, noise=0.08),
    ),
    DrawnTask(
        "Colours",
        tuple(COLOURS),
        ("a {} patch.", "something {}.", "a picture of something {}."),
        _blob,
        DrawingStyle(ground=(0.1, 0.6), tint=0.35, clutter=8, noise=0.1),
        tuple(COLOURS.values()),
    ),
    DrawnTask(
        "Digits",
        tuple(glyphs.DIGITS),
        ("the digit {}.", "a drawing of the digit {}.", "the number {}."),
        _glyph(glyphs.DIGITS),
        DrawingStyle(inverted=1.0, clutter=8, noise=0.08, scale=(0.45, 0.75), angle=20),
    ),
    DrawnTask(
        "Letters",
        tuple(glyphs.LETTERS),
        ("the letter {}.", "a drawing of the letter {}.", "a capital {}."),
        _glyph(glyphs.LETTERS),
        DrawingStyle(mirrored=True, noise=0.06),
    ),
    DrawnTask(
        "Textures",
        tuple(glyphs.TEXTURES),
        ("a texture of {}.", "a pattern of {}.", "a surface with {}."),
        _glyph(glyphs.TEXTURES),
        DrawingStyle(ground=(0.4, 0.7), ink=(0.25, 0.35), scale=(0.8, 1.1), clutter=8, noise=0.12),
    ),
    DrawnTask(
        "Counts",
        COUNTS,
        ("{} dots.", "a picture of {} dots.", "a group of {} dots."),
        _counted,
        DrawingStyle(inverted=0.5, radius=(0.06, 0.12), noise=0.1),
    ),
    DrawnTask(
        "Positions",
        PLACES,
        ("a dot at the {}.", "a disc at the {} of the picture.", "something at the {}."),
        _placed,
        DrawingStyle(inverted=0.5, clutter=10, noise=0.1),
    ),
    DrawnTask(
        "Arrows",
        DIRECTIONS,
        ("an arrow that points {}.", "an arrow pointing {}.", "a sign that points {}."),
        _pointing,
        DrawingStyle(ground=(0.35, 0.6), ink=(0.75, 0.95), clutter=6, noise=0.08),
    ),
)

COUNTED = {"train": 4000, "test": 1000}


class DrawnExamples(Dataset):
    """The examples of one part of a task, drawn when first asked for."""

    def __init__(self, drawn: DrawnTask, subset: str):
        self._drawn, self._part = drawn, subset
        self._count = COUNTED[subset]

    @cached_property
    def _examples(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._drawn.images(self._part, self._count)
        return images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        images, labels = self._examples
        return Image.fromarray(images[index]), int(labels[index])


@cache
def tasks() -> dict[str, Task]:
    """The demo's tasks by name."""
    return {drawn.name: Task(drawn.name, drawn.templates, drawn) for drawn in DRAWN}
