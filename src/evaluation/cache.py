"""Numbers that were computed once: one small json file a number, so that killed and parallel runs lose nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from src.checkpoints.reading import Checkpoint
from src.runtime.files import write_json
from src.state_dict import StateDict, digest, floating

VERSION = 2  # of what is kept: raise it when the same ingredients come to give other numbers, or another form


class Cache:
    """Values by the text of their ingredients, kept under `folder`."""

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, kind: str, made_from: list, make: Callable[[], object]) -> object:
        """The kept value of `make()` for these ingredients, or a new one, which is then kept."""
        value = self.find(kind, made_from)
        if value is None:
            value = make()
            self.keep(kind, made_from, value)
        return value

    def find(self, kind: str, made_from: list) -> object | None:
        """The kept value, or None. A file that cannot be read (cut short by a full disk, say) counts as absent."""
        asked = [VERSION, *made_from]
        try:
            found = json.loads(self._path(kind, asked).read_text())
            return found["value"] if found["made_from"] == asked else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, kind: str, made_from: list, value: object) -> None:
        asked = [VERSION, *made_from]
        write_json(self._path(kind, asked), {"made_from": asked, "value": value})

    def _path(self, kind: str, asked: list) -> Path:
        return self._folder / kind / f"{xxhash.xxh3_128_hexdigest(json.dumps(asked).encode())}.json"

    def facts(self, checkpoint: Checkpoint) -> "Facts":
        """What reading all of a checkpoint tells; it is read again only when one of its files changed."""
        stats = [
            [
                str(checkpoint.path.resolve()),
                str(file.resolve()),
                *(getattr(file.stat(), f"st_{what}") for what in ("size", "mtime_ns", "ctime_ns", "ino")),
            ]
            for file in checkpoint.files
        ]
        names = xxhash.xxh3_64_hexdigest("\n".join(checkpoint).encode())  # one file may be read under different names
        return Facts(**self.get("checkpoints", [names, checkpoint.made_with, *stats], lambda: vars(Facts.of(checkpoint))))


@dataclass(frozen=True)
class Facts:
    """digest: of all entries; non_finite: the names of those with NaN or infinite values."""

    digest: str
    non_finite: list[str]

    @classmethod
    def of(cls, entries: StateDict) -> "Facts":
        spoiled = [key for key in floating(entries) if not torch.isfinite(entries[key]).all()]
        return cls(digest(entries.items()), spoiled)
