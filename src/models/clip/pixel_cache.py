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

from src.checkpoints.reading import open_files
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.runtime.files import write_json
from src.runtime.progress import SILENT, Progress
from src.state_dict import byte_size, digest

SPAN = 1024  # images a file: what a killed run loses at most
HEADER = 1024  # bytes of a file that are neither pixels nor labels, at most
VERSION = 2  # of what is kept: raise it when the same examples come to be read or decoded otherwise


class Span(NamedTuple):
    """Consecutive examples: uint8 pixels (n, 3, height, width) and labels (n,)."""

    pixels: Tensor
    labels: Tensor


Decode = Callable[[int], tuple[Tensor, int]]  # returns uint8 pixels (3, height, width) and the label of one example


@dataclass(frozen=True)
class PixelStore:
    """A cache of decoded splits on disk, limited in size: the least recently used are removed for new ones.

    folder: where they lie.
    limit: bytes that they take at most. A split that would not fit on its own is decoded each time instead.
    workers: threads that decode.
    progress: listener, which hears what is being decoded.
    in_use: folders of the splits that this process uses.
    """

    folder: Path
    limit: int
    workers: int
    progress: Progress = SILENT
    in_use: set[Path] = field(default_factory=set, init=False)

    def split(self, description: str, count: Callable[[], int], decode: Decode, name: str) -> "Split":
        """Return the split with this description of its data and all its preprocessing.

        count: returns the number of examples; not called where a split is known from an earlier run.
        name: for progress reports.
        """
        split = Split(self, xxhash.xxh3_128_hexdigest(f"{VERSION} {description}".encode()), count, decode, name)
        self.in_use.add(split.folder)
        return split

    def make_room(self, size: int) -> bool:
        """Remove splits, the longest unused first and none in use, until `size` more bytes fit; return whether they do.

        Splits that one run goes through again and again would push one another out, so those in use are never removed.
        """
        sizes, last_used = {}, {}
        for path in self.folder.iterdir() if self.folder.exists() else ():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # another process makes room, too
                with os.scandir(path) as files:
                    sizes[path] = sum(file.stat().st_size for file in files)
                if path not in self.in_use:
                    last_used[path] = path.stat().st_mtime
        for path in sorted(last_used, key=last_used.__getitem__):
            if sum(sizes.values()) + size <= self.limit:
                return True
            shutil.rmtree(path, ignore_errors=True)  # another run that reads it keeps what it has mapped
            sizes.pop(path)
        return sum(sizes.values()) + size <= self.limit


class Split:
    """One decoded split, span by span: spans on disk are mapped, others are decoded and saved."""

    def __init__(self, store: PixelStore, key: str, count: Callable[[], int], decode: Decode, name: str):
        self._store, self._count, self._decode, self._name = store, count, decode, name
        self.folder, self._facts_file = store.folder / key, store.folder / f"{key}.json"

    @cached_property
    def count(self) -> int:
        """The number of examples."""
        return self._facts().get("count") or self._count()

    @property
    def spans(self) -> list[range]:
        """The examples of each file."""
        return [range(start, min(start + SPAN, self.count)) for start in range(0, self.count, SPAN)]

    def span(self, indices: range) -> Span:
        """Return the examples of one of `spans`, or of a part of one."""
        first = indices.start // SPAN * SPAN
        path, rows = self.folder / f"{first:09}.safetensors", slice(indices.start - first, indices.stop - first)
        try:
            saved = open_files(path)
            os.utime(self.folder)
            return Span(saved["pixels"][rows], saved["labels"][rows])
        except (UserError, KeyError, FileNotFoundError):  # not there, or spoiled
            pass
        decoded = self._decode_span(indices)
        if indices not in self.spans:
            return decoded
        size = byte_size(decoded._asdict()) + HEADER
        if size // len(indices) * self.count <= self._store.limit and self._store.make_room(size):
            with contextlib.suppress(UserError, FileNotFoundError):  # a full disk, or another process that makes room
                save_file(decoded._asdict(), path)
        return decoded

    @cached_property
    def digest(self) -> str:
        """The digest of all pixels and labels. It is kept when the pixels themselves are removed."""
        facts = self._facts()  # read now: another process of the group may have found it out since `count` was asked for
        if "digest" in facts:
            return facts["digest"]
        parts = [digest(span._asdict().items()) for span in map(self.span, self.spans)]
        value = parts[0] if len(parts) == 1 else xxhash.xxh3_128_hexdigest("".join(parts).encode())
        write_json(self._facts_file, {"digest": value, "count": self.count})
        return value

    def _facts(self) -> dict:
        """Return the count and digest that an earlier run, or another process, computed; {} if none did."""
        try:
            facts = json.loads(self._facts_file.read_text())
            return {"digest": str(facts["digest"]), "count": int(facts["count"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _decode_span(self, indices: range) -> Span:
        first, label = self._decode(indices[0])
        pixels = torch.empty((len(indices), *first.shape), dtype=torch.uint8)
        labels = torch.empty(len(indices), dtype=torch.int64)
        pixels[0], labels[0] = first, label

        def decode(row: int) -> None:
            pixels[row], labels[row] = self._decode(indices[row])

        with ThreadPoolExecutor(self._store.workers) as threads:  # decoding and resizing let go of Python's lock
            for row, _ in enumerate(threads.map(decode, range(1, len(indices))), start=1):
                if row % 64 == 0:
                    self._store.progress.report(f"decoding {self._name}: {indices[row]} of {self.count}", 0)
        return Span(pixels, labels)
