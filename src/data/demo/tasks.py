"""Eight small image tasks, drawn from a seed: the demo needs no download and still behaves like a benchmark.

Every task can be drawn in two styles. The `PLAIN` style (dark on light, uncluttered) is what the demo's CLIP was
pre-trained on. Each task's own style (noise, clutter, inversion, low contrast, mirroring, blur) is what it is
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
from src.data.task import BundledSource
from src.data.vision.task import ImageTask

SIZE = 32
# Changed by hand whenever the same seed comes to draw other images (a test notices).
DRAWING_VERSION = "38b4344b900d150e63cd69319890eed1"
SIZES = {"train": 4000, "test": 1000}  # examples of each task, by subset


@dataclass(frozen=True)
class DrawingStyle:
    """How scenes are drawn. Pairs are the (low, high) of a uniform distribution; colours are in 0..1.

    ground, ink: brightness of the ground and of the strokes.
    tint: largest difference of a colour's channel from that brightness.
    radius: half the thickness of strokes.
    scale: size of the scene, of which 1 fills the image.
    stretch: largest relative difference of width and of height from that size.
    angle: largest rotation, in degrees.
    shift: largest shift along x and along y.
    inversion: fraction of images that are light on dark.
    clutter: number of strokes below the scene.
    noise: mean standard deviation of the noise.
    blur: largest share of the blurred image.
    is_mirrored: whether left and right are swapped.
    """

    ground: tuple[float, float] = (0.8, 1.0)
    ink: tuple[float, float] = (0.0, 0.3)
    tint: float = 0.1
    radius: tuple[float, float] = (0.07, 0.13)
    scale: tuple[float, float] = (0.5, 0.85)
    stretch: float = 0.1
    angle: float = 12.0
    shift: float = 0.15
    inversion: float = 0.0
    clutter: int = 0
    noise: float = 0.04
    blur: float = 0.0
    is_mirrored: bool = False


PLAIN = DrawingStyle()


@dataclass(frozen=True)
class DrawnTask(BundledSource):
    """One task of the demo; the source of its own examples.

    classes: names in label order.
    templates: prompts with a `{}` for the class name.
    scene: returns the ends, (batch, count, 4), and radius, (batch, count), of the strokes of images with these labels,
        (batch,), in a style.
    style: that of its examples.
    inks: the colour of each class, for a task whose classes are colours; by default all scenes have the style's ink.
    """

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    scene: Callable[[Tensor, DrawingStyle, Generator], tuple[Tensor, Tensor]]
    style: DrawingStyle
    inks: tuple[tuple[float, float, float], ...] | None = None

    kind: ClassVar[str] = "Drawn"

    def draw(self, labels: Tensor, style: DrawingStyle, generator: Generator) -> Tensor:
        """Return images of the classes `labels`, (n,), as uint8 (n, 3, SIZE, SIZE) on the device of `labels`."""
        uniform = _uniform(labels, generator)
        count = len(labels)
        ground = uniform(count, 1, low=style.ground[0], high=style.ground[1])
        ink = uniform(count, 1, low=style.ink[0], high=style.ink[1])
        is_inverted = uniform(count, 1) < style.inversion
        ground, ink = torch.where(is_inverted, 1 - ground, ground), torch.where(is_inverted, 1 - ink, ink)
        ground = ground + uniform(count, 3, low=-style.tint, high=style.tint)
        ink = ink + uniform(count, 3, low=-style.tint, high=style.tint)
        if self.inks is not None:
            ink = torch.tensor(self.inks, device=labels.device)[labels] * 0.85 + ink * 0.15
        ends, radius = self.scene(labels, style, generator)
        if style.is_mirrored:
            ends = ends * torch.tensor([-1.0, 1.0, -1.0, 1.0], device=labels.device)
        strokes = Strokes(ends, radius, ink[:, None].expand(-1, ends.shape[1], -1))
        if style.clutter:
            strokes = strokes.over(_clutter(ground, ink, style, uniform))
        image = paint(strokes, ground, SIZE)
        if style.blur:
            blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            image = image.lerp(blurred, uniform(count, 1, 1, 1, high=style.blur))
        noise = torch.randn(image.shape, generator=generator, device=labels.device)
        image = image + noise * uniform(count, 1, 1, 1, high=2 * style.noise)
        return (image.clamp_(0, 1) * 255).round_().to(torch.uint8)

    def images(self, subset: str, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` images of `train` or `test`, uint8 (count, 3, SIZE, SIZE), and their labels, (count,)."""
        seed = hashlib.sha256(f"{self.name}/{subset}".encode()).digest()[:7]
        generator = Generator().manual_seed(int.from_bytes(seed, "big"))
        labels = torch.randint(len(self.classes), (count,), generator=generator)
        return self.draw(labels, self.style, generator), labels

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(SIZES)

    def load(self, subset: str) -> "DrawnExamples":
        """Return all examples of a subset."""
        return DrawnExamples(self, subset)

    def fingerprint(self, subset: str) -> str:
        """Return what changes when other images are drawn: the drawing code, and torch's random numbers."""
        return f"{DRAWING_VERSION} {torch.__version__}"


def _uniform(like: Tensor, generator: Generator) -> Callable[..., Tensor]:
    """Return a function that draws uniform random tensors of a shape, on the device of `like`."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=like.device)

    return uniform


def _clutter(ground: Tensor, ink: Tensor, style: DrawingStyle, uniform: Callable[..., Tensor]) -> Strokes:
    """Return short strokes of colours between ground and ink, to be painted under the scene."""
    count, pieces = len(ground), style.clutter
    start = uniform(count, pieces, 2, low=-1.1, high=1.1)
    ends = torch.cat((start, start + uniform(count, pieces, 2, low=-0.6, high=0.6)), -1)
    colour = ground[:, None].lerp(ink[:, None], uniform(count, pieces, 1, low=0.2, high=0.6))
    return Strokes(ends, uniform(count, pieces, low=0.03, high=0.12), colour)


def _table(glyphs_by_class: dict[str, list]) -> tuple[Tensor, Tensor]:
    """Return the segments of every class, (classes, most, 4), and which of these it has, (classes, most)."""
    most = max(map(len, glyphs_by_class.values()))
    ends, mask = torch.zeros(len(glyphs_by_class), most, 4), torch.zeros(len(glyphs_by_class), most, dtype=torch.bool)
    for label, segments in enumerate(glyphs_by_class.values()):
        ends[label, : len(segments)] = torch.tensor(segments)
        mask[label, : len(segments)] = True
    return ends, mask


def _transform(ends: Tensor, mask: Tensor, style: DrawingStyle, generator: Generator, angle: Tensor | float = 0.0):
    """Return each image's segments turned, stretched and moved as the style allows, and their radius, -1 outside `mask`.

    angle: radians to turn each image's by, on top of the style's.
    """
    uniform, count = _uniform(ends, generator), len(ends)
    wobble = math.radians(style.angle)
    scale = uniform(count, 1, low=style.scale[0], high=style.scale[1])
    scale = scale * uniform(count, 2, low=1 - style.stretch, high=1 + style.stretch)
    shift = uniform(count, 2, low=-style.shift, high=style.shift)
    ends = turn(ends, uniform(count, low=-wobble, high=wobble) + angle, scale, shift)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1])
    return ends, torch.where(mask, radius, -1.0)


def _glyph_scene(glyphs_by_class: dict[str, list]):
    """Return the scene that is the glyph of the class."""
    ends, mask = _table(glyphs_by_class)

    def scene(labels: Tensor, style: DrawingStyle, generator: Generator):
        rows = labels.cpu()
        return _transform(ends[rows].to(labels.device), mask[rows].to(labels.device), style, generator)

    return scene


def _blob_scene(labels: Tensor, style: DrawingStyle, generator: Generator):
    """Return three thick strokes somewhere near the middle: a patch of colour without a meaning of its own."""
    uniform = _uniform(labels, generator)
    ends = uniform(len(labels), 3, 4, low=-0.5, high=0.5)
    return ends, uniform(len(labels), 3, low=0.15, high=0.35)


def _count_scene(labels: Tensor, style: DrawingStyle, generator: Generator):
    """Return `label + 1` discs in different cells of a jittered 4 x 4 board."""
    uniform, count = _uniform(labels, generator), len(labels)
    cells = uniform(count, 16).argsort(dim=1)
    centre = torch.stack((cells % 4, cells // 4), -1) * 0.5 - 0.75 + uniform(count, 16, 2, low=-0.08, high=0.08)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1]) * 1.4
    mask = torch.arange(16, device=labels.device) <= labels[:, None]
    return torch.cat((centre, centre), -1)[:, :8], torch.where(mask, radius, -1.0)[:, :8]


def _position_scene(labels: Tensor, style: DrawingStyle, generator: Generator):
    """Return one disc in cell `label` of a 3 x 3 board, row by row."""
    uniform, count = _uniform(labels, generator), len(labels)
    centre = torch.stack((labels % 3, labels // 3), -1) * 0.62 - 0.62 + uniform(count, 2, low=-0.13, high=0.13)
    radius = uniform(count, 1, low=style.radius[0], high=style.radius[1]) * 2
    return torch.cat((centre, centre), -1)[:, None], radius


def _arrow_scene(labels: Tensor, style: DrawingStyle, generator: Generator):
    """Return an arrow that points `label` eighths of a turn from the right, counter-clockwise."""
    ends = torch.tensor(glyphs.ARROW, device=labels.device).expand(len(labels), -1, -1)
    mask = torch.ones(ends.shape[:2], dtype=torch.bool, device=labels.device)
    return _transform(ends, mask, style, generator, angle=-labels * (math.pi / 4))


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
POSITIONS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = ("right", "up and right", "up", "up and left", "left", "down and left", "down", "down and right")

DRAWN_TASKS = (
    DrawnTask(
        "Shapes",
        tuple(glyphs.SHAPES),
        ("a drawing of a {}.", "a picture of a {}.", "the shape of a {}."),
        _glyph_scene(glyphs.SHAPES),
        DrawingStyle(ground=(0.5, 0.7), ink=(0.2, 0.35), angle=40, clutter=6, noise=0.08),
    ),
    DrawnTask(
        "Colours",
        tuple(COLOURS),
        ("a {} patch.", "something {}.", "a picture of something {}."),
        _blob_scene,
        DrawingStyle(ground=(0.1, 0.6), tint=0.35, clutter=8, noise=0.1),
        tuple(COLOURS.values()),
    ),
    DrawnTask(
        "Digits",
        tuple(glyphs.DIGITS),
        ("the digit {}.", "a drawing of the digit {}.", "the number {}."),
        _glyph_scene(glyphs.DIGITS),
        DrawingStyle(inversion=1.0, clutter=8, noise=0.08, scale=(0.45, 0.75), angle=20),
    ),
    DrawnTask(
        "Letters",
        tuple(glyphs.LETTERS),
        ("the letter {}.", "a drawing of the letter {}.", "a capital {}."),
        _glyph_scene(glyphs.LETTERS),
        DrawingStyle(is_mirrored=True, noise=0.06),
    ),
    DrawnTask(
        "Textures",
        tuple(glyphs.TEXTURES),
        ("a texture of {}.", "a pattern of {}.", "a surface with {}."),
        _glyph_scene(glyphs.TEXTURES),
        DrawingStyle(ground=(0.4, 0.7), ink=(0.25, 0.35), scale=(0.8, 1.1), clutter=8, noise=0.12),
    ),
    DrawnTask(
        "Counts",
        COUNTS,
        ("{} dots.", "a picture of {} dots.", "a group of {} dots."),
        _count_scene,
        DrawingStyle(inversion=0.5, radius=(0.06, 0.12), noise=0.1),
    ),
    DrawnTask(
        "Positions",
        POSITIONS,
        ("a dot at the {}.", "a disc at the {} of the picture.", "something at the {}."),
        _position_scene,
        DrawingStyle(inversion=0.5, clutter=10, noise=0.1),
    ),
    DrawnTask(
        "Arrows",
        DIRECTIONS,
        ("an arrow that points {}.", "an arrow pointing {}.", "a sign that points {}."),
        _arrow_scene,
        DrawingStyle(ground=(0.35, 0.6), ink=(0.75, 0.95), clutter=6, noise=0.08),
    ),
)


class DrawnExamples(Dataset):
    """The examples of one subset of a task, drawn when one is first read."""

    def __init__(self, task: DrawnTask, subset: str):
        self._task, self._subset = task, subset
        self._count = SIZES[subset]

    @cached_property
    def _examples(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._task.images(self._subset, self._count)
        return images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        images, labels = self._examples
        return Image.fromarray(images[index]), int(labels[index])


@cache
def tasks() -> dict[str, ImageTask]:
    """Return the demo's tasks by name."""
    return {task.name: ImageTask(task.name, task, task.templates) for task in DRAWN_TASKS}
