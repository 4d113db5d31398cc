"""Images as a model sees them before normalisation, decoded once: uint8 on disk, mapped, shared by all runs, bounded."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor

from src.checkpoints.reading import open_checkpoint
from src.checkpoints.writing import save_file, size_of
from src.errors import UserError
from src.runtime.files import write_json
from src.state_dict import digest

SPAN = 1024  # images a file: what a killed run loses at most
HEADER = 1024  # bytes of a file that are neither pixels nor labels, at most
VERSION = 1  # of what is kept: raise it when the same examples come to be read or decoded otherwise


class Span(NamedTuple):
    """uint8 pixels (n, 3, height, width) and labels (n,) of consecutive examples."""

    pixels: Tensor
    labels: Tensor


Decode = Callable[[int], tuple[Tensor, int]]  # the uint8 pixels (3, height, width) and the label of one example


@dataclass(frozen=True)
class PixelStore:
    """Decoded splits under `folder`, which takes at most `limit` bytes: those used longest ago make room for new ones.

    workers: threads that decode; report: is told what is being decoded; ours: the folders of splits that this process
    uses. A split that would not fit on its own is decoded each time instead.
    """

    folder: Path
    limit: int
    workers: int
    report: Callable[[str, int], None] = lambda what, done: None
    ours: set[Path] = field(default_factory=set, init=False)

    def split(self, made_from: str, count: Callable[[], int], decode: Decode, what: str) -> "Split":
        """The split, called `what`, that `made_from` describes: its data and all its preprocessing.

        count: says how many examples there are; it is not asked where a split is known from an earlier run.
        """
        split = Split(self, xxhash.xxh3_128_hexdigest(f"{VERSION} {made_from}".encode()), count, decode, what)
        self.ours.add(split.folder)
        return split

    def make_room(self, size: int) -> bool:
        """Remove splits, the longest unused first and none of this process's, until `size` more bytes fit; whether they do.

        Splits that one run goes through again and again must not push one another out: the last ones are not kept.
        """
        sizes, used = {}, {}
        for path in self.folder.iterdir() if self.folder.exists() else ():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # another process makes room, too
                with os.scandir(path) as files:
                    sizes[path] = sum(file.stat().st_size for file in files)
                if path not in self.ours:
                    used[path] = path.stat().st_mtime
        for path in sorted(used, key=used.__getitem__):
            if sum(sizes.values()) + size <= self.limit:
                return True
            shutil.rmtree(path, ignore_errors=True)  # another run that reads it keeps what it has mapped
            sizes.pop(path)
        return sum(sizes.values()) + size <= self.limit


class Split:
    """One decoded split, span by span; what is on disk is mapped, the rest is decoded and put there."""

    def __init__(self, store: PixelStore, name: str, count: Callable[[], int], decode: Decode, what: str):
        self._store, self._count, self._decode, self._what = store, count, decode, what
        self.folder, self._known_file = store.folder / name, store.folder / f"{name}.json"

    @cached_property
    def count(self) -> int:
        """How many examples there are."""
        return self._known.get("count") or self._count()

    @property
    def parts(self) -> list[range]:
        """The examples of each span."""
        return [range(start, min(start + SPAN, self.count)) for start in range(0, self.count, SPAN)]

    def span(self, part: range) -> Span:
        """The examples of one of `parts`."""
        path = self.folder / f"{part.start:09}.safetensors"
        try:
            found = open_checkpoint(path)
            os.utime(self.folder)
            return Span(found["pixels"], found["labels"])
        except (UserError, KeyError, FileNotFoundError):  # not there, or spoiled
            pass
        made = self._made(part)
        size = size_of(made._asdict()) + HEADER
        if size // len(part) * self.count <= self._store.limit and self._store.make_room(size):
            with contextlib.suppress(UserError, FileNotFoundError):  # a full disk, or another process that makes room
                save_file(made._asdict(), path)
        return made

    @cached_property
    def digest(self) -> str:
        """Of all pixels and labels. It is remembered when the pixels themselves had to make room."""
        if "digest" in self._known:
            return self._known["digest"]
        parts = [digest(span._asdict().items()) for span in map(self.span, self.parts)]
        value = parts[0] if len(parts) == 1 else xxhash.xxh3_128_hexdigest("".join(parts).encode())
        write_json(self._known_file, {"digest": value, "count": self.count})
        return value

    @cached_property
    def _known(self) -> dict:
        """What an earlier run found out."""
        try:
            known = json.loads(self._known_file.read_text())
            return {"digest": str(known["digest"]), "count": int(known["count"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

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
                    self._store.report(f"decoding {self._what}: {indices[row]} of {self.count}", 0)
        return Span(pixels, labels)
