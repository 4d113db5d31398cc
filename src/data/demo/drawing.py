"""Paint batches of strokes: the demo's images are drawn with this, on whatever device the strokes live.

A scene is an ordered list of thick line segments with round ends (a disc is a segment of length zero) on a
coloured ground. Coordinates run from -1 to 1, x to the right and y down, so a drawing does not know its resolution.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strokes:
    """`count` segments for each of `batch` images, painted in order.

    ends: (batch, count, 4) as x0, y0, x1, y1; radius: (batch, count), half the thickness, negative for "not drawn";
    colour: (batch, count, 3) in 0..1.
    """

    ends: Tensor
    radius: Tensor
    colour: Tensor

    def over(self, below: "Strokes") -> "Strokes":
        """These strokes painted after `below`."""
        joined = [torch.cat(pair, dim=1) for pair in ((below.ends, self.ends), (below.radius, self.radius))]
        return Strokes(*joined, torch.cat((below.colour, self.colour), dim=1))


def paint(strokes: Strokes, ground: Tensor, size: int) -> Tensor:
    """Images (batch, 3, size, size) in 0..1 of `strokes` over a `ground` of shape (batch, 3); edges are antialiased."""
    # A few images at a time keep the distances of all strokes in a CPU's cache; a GPU wants them all at once.
    few = 16 if ground.device.type == "cpu" else len(ground)
    subsets = zip(*(subset.split(few) for subset in (strokes.ends, strokes.radius, strokes.colour, ground)))
    return torch.cat([_paint(Strokes(*scene), below, size) for *scene, below in subsets])


def _paint(strokes: Strokes, ground: Tensor, size: int) -> Tensor:
    centres = (torch.arange(size, device=ground.device) + 0.5) * (2 / size) - 1
    x, y = centres[None, None, None, :], centres[None, None, :, None]
    x0, y0, x1, y1 = (subset[..., None, None] for subset in strokes.ends.unbind(-1))
    run, rise = x1 - x0, y1 - y0
    length = (run**2 + rise**2).clamp_min(1e-8)
    along = ((x - x0) * (run / length)).add((y - y0) * (rise / length)).clamp_(0, 1)  # (batch, count, size, size)
    away = torch.hypot((along * run).sub_(x - x0), (along * rise).sub_(y - y0))
    cover = away.neg_().add_(strokes.radius[..., None, None]).mul_(size / 2).add_(0.5).clamp_(0, 1)
    image = ground[:, :, None, None].expand(-1, -1, size, size).contiguous()
    for layer in range(cover.shape[1]):
        image.lerp_(strokes.colour[:, layer, :, None, None].expand_as(image), cover[:, layer, None].expand_as(image))
    return image


def turn(ends: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`ends` (batch, count, 4) rotated by `angle` (batch,), scaled by `scale` (batch, 2), moved by `shift` (batch, 2)."""
    points = ends.unflatten(-1, (2, 2)) * scale[:, None, None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), -2)  # (batch, 2, 2)
    return (points @ rotation[:, None] + shift[:, None, None, :]).flatten(-2)


def polyline(*points: tuple[float, float]) -> list[tuple[float, float, float, float]]:
    """The segments that join consecutive `points`."""
    return [(*a, *b) for a, b in pairwise(points)]


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, pieces: int) -> list[tuple[float, ...]]:
    """An elliptic arc about (x, y) from `start` to `stop` degrees, clockwise from the right, as `pieces` segments."""
    angles = [math.radians(start + (stop - start) * i / pieces) for i in range(pieces + 1)]
    return polyline(*((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles))
