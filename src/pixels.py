"""Images as a model sees them before normalisation, decoded once: uint8 on disk, mapped, shared by all runs, bounded."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor

from src.checkpoints import open_checkpoint
from src.errors import UserError
from src.files import write_json
from src.saving import save_file
from src.state_dict import digest

SPAN = 1024  # images a file: what a killed run loses at most


class Span(NamedTuple):
    """uint8 pixels (n, 3, height, width) and labels (n,) of consecutive examples."""

    pixels: Tensor
    labels: Tensor


Decode = Callable[[int], tuple[Tensor, int]]  # the uint8 pixels (3, height, width) and the label of one example


@dataclass(frozen=True)
class PixelStore:
    """Decoded splits under `folder`, which takes at most `limit` bytes: those used longest ago make room for new ones.

    workers: threads that decode; report: is told what is being decoded. A split that would not fit on its own is
    decoded each time instead.
    """

    folder: Path
    limit: int
    workers: int
    report: Callable[[str, int], None] = lambda what, done: None

    def split(self, made_from: str, count: int, decode: Decode, what: str) -> "Split":
        """The split of `count` examples, called `what`, that `made_from` describes: its data and all its preprocessing."""
        return Split(self, xxhash.xxh3_128_hexdigest(made_from.encode()), count, decode, what)

    def make_room(self, size: int, keep: Path) -> bool:
        """Remove splits other than `keep`, the longest unused first, until `size` more bytes fit; whether they do."""
        splits = [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.exists() else []
        sizes = {path: sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in splits}
        used = {path: path.stat().st_mtime for path in splits}
        for path in sorted(splits, key=used.__getitem__):
            if sum(sizes.values()) + size <= self.limit:
                return True
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)  # another run that reads it keeps what it has mapped
                sizes.pop(path)
        return sum(sizes.values()) + size <= self.limit


class Split:
    """One decoded split, span by span; what is on disk is mapped, the rest is decoded and put there."""

    def __init__(self, store: PixelStore, name: str, count: int, decode: Decode, what: str):
        self._store, self._decode, self._count, self._what = store, decode, count, what
        self._folder, self._digest_file = store.folder / name, store.folder / f"{name}.json"
        if self._folder.exists():
            os.utime(self._folder)

    @property
    def parts(self) -> list[range]:
        """The examples of each span."""
        return [range(start, min(start + SPAN, self._count)) for start in range(0, self._count, SPAN)]

    def span(self, part: range) -> Span:
        """The examples of one of `parts`."""
        path = self._folder / f"{part.start:09}.safetensors"
        try:
            found = open_checkpoint(path)
            return Span(found["pixels"], found["labels"])
        except (UserError, KeyError):  # not there, or spoiled
            pass
        made = self._made(part)
        whole = made.pixels.numel() // len(part) * self._count  # a split that can never fit pushes no other out
        if whole <= self._store.limit and self._store.make_room(made.pixels.numel(), self._folder):
            with contextlib.suppress(UserError):  # a full disk
                save_file(made._asdict(), path)
        return made

    @cached_property
    def digest(self) -> str:
        """Of all pixels and labels. It is remembered when the pixels themselves had to make room."""
        try:
            return json.loads(self._digest_file.read_text())["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            parts = [digest(span._asdict().items()) for span in map(self.span, self.parts)]
            value = parts[0] if len(parts) == 1 else xxhash.xxh3_128_hexdigest("".join(parts).encode())
            write_json(self._digest_file, {"digest": value, "count": self._count})
            return value

    def _made(self, indices: range) -> Span:
        first, label = self._decode(indices[0])
        pixels = torch.empty((len(indices), *first.shape), dtype=torch.uint8)
        labels = torch.empty(len(indices), dtype=torch.int64)
        pixels[0], labels[0] = first, label

        def place(row: int) -> None:
            pixels[row], labels[row] = self._decode(indices[row])

        with ThreadPoolExecutor(self._store.workers) as threads:  # decoding and resizing let go of Python's lock
            for row, _ in enumerate(threads.map(place, range(1, len(indices))), start=1):
                if row % 64 == 0:
                    self._store.report(f"decoding {self._what}: {indices[row]} of {self._count}", 0)
        return Span(pixels, labels)
