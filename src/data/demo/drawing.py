"""Strokes, and painting batches of them, on the device of their tensors.

A scene is an ordered list of thick line segments with round ends (a disc is a segment of length zero) on a
coloured ground. Coordinates run from -1 to 1, x to the right and y down, so a scene has no resolution.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strokes:
    """The segments of several scenes, painted in order.

    ends: (batch, count, 4), of each segment x0, y0, x1, y1.
    radius: (batch, count), half the thickness, negative for segments that are not drawn.
    colour: (batch, count, 3), in 0..1.
    """

    ends: Tensor
    radius: Tensor
    colour: Tensor

    def over(self, below: "Strokes") -> "Strokes":
        """Return the strokes that paint `below` first, then these."""
        pairs = (below.ends, self.ends), (below.radius, self.radius), (below.colour, self.colour)
        return Strokes(*(torch.cat(pair, dim=1) for pair in pairs))


def paint(strokes: Strokes, ground: Tensor, size: int) -> Tensor:
    """Return antialiased images, (batch, 3, size, size) in 0..1, of `strokes` over a `ground` of colours, (batch, 3)."""
    # A few images at a time keep the distances of all strokes in a CPU's cache; a GPU wants them all at once.
    count = 16 if ground.device.type == "cpu" else len(ground)
    chunks = zip(*(tensor.split(count) for tensor in (strokes.ends, strokes.radius, strokes.colour, ground)))
    return torch.cat([_paint(Strokes(*tensors), colours, size) for *tensors, colours in chunks])


def _paint(strokes: Strokes, ground: Tensor, size: int) -> Tensor:
    centres = (torch.arange(size, device=ground.device) + 0.5) * (2 / size) - 1
    x, y = centres[None, None, None, :], centres[None, None, :, None]
    x0, y0, x1, y1 = (coordinate[..., None, None] for coordinate in strokes.ends.unbind(-1))
    run, rise = x1 - x0, y1 - y0
    square = (run**2 + rise**2).clamp_min(1e-8)  # of the length
    along = ((x - x0) * (run / square)).add((y - y0) * (rise / square)).clamp_(0, 1)  # (batch, count, size, size)
    distance = torch.hypot((along * run).sub_(x - x0), (along * rise).sub_(y - y0))
    cover = distance.neg_().add_(strokes.radius[..., None, None]).mul_(size / 2).add_(0.5).clamp_(0, 1)
    image = ground[:, :, None, None].expand(-1, -1, size, size).contiguous()
    for layer in range(cover.shape[1]):
        image.lerp_(strokes.colour[:, layer, :, None, None].expand_as(image), cover[:, layer, None].expand_as(image))
    return image


def turn(ends: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return `ends`, (batch, count, 4), scaled, then rotated, then moved.

    angle: radians, (batch,).
    scale: along x and y, (batch, 2).
    shift: along x and y, (batch, 2).
    """
    points = ends.unflatten(-1, (2, 2)) * scale[:, None, None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), -2)  # (batch, 2, 2)
    return (points @ rotation[:, None] + shift[:, None, None, :]).flatten(-2)


def polyline(*points: tuple[float, float]) -> list[tuple[float, float, float, float]]:
    """Return the segments that join consecutive points."""
    return [(*start, *end) for start, end in pairwise(points)]


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, pieces: int) -> list[tuple[float, ...]]:
    """Return an elliptic arc about (x, y) from `start` to `stop` degrees, clockwise from the right, as `pieces` segments."""
    angles = [math.radians(start + (stop - start) * i / pieces) for i in range(pieces + 1)]
    return polyline(*((x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles))
