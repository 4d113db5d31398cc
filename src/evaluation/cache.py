"""A cache of computed values on disk: one small JSON file each, so that killed and parallel runs lose nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from src.checkpoints.reading import Checkpoint
from src.runtime.files import write_json
from src.state_dict import StateDict, digest, is_finite, weight_names

VERSION = 2  # of cached values: raise it when the same key comes to give other values, or another form


class Cache:
    """A cache of JSON values under `folder`, by keys that are JSON values, too."""

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, kind: str, key: list, make: Callable[[], object]) -> object:
        """Return the kept value for this key, or `make()`, which is then kept."""
        value = self.find(kind, key)
        if value is None:
            value = make()
            self.keep(kind, key, value)
        return value

    def find(self, kind: str, key: list) -> object | None:
        """Return the kept value, or None. A file that cannot be read (cut short by a full disk, say) counts as absent."""
        key = [VERSION, *key]
        try:
            entry = json.loads(self._path(kind, key).read_text())
            return entry["value"] if entry["made_from"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, kind: str, key: list, value: object) -> None:
        """Write the value for a key."""
        key = [VERSION, *key]
        write_json(self._path(kind, key), {"made_from": key, "value": value})

    def summary(self, checkpoint: Checkpoint) -> "ContentSummary":
        """Return the summary of a checkpoint's contents; it is read again only when one of its files changed."""
        stats = [
            [
                str(checkpoint.path.resolve()),
                str(file.resolve()),
                *(getattr(file.stat(), f"st_{field}") for field in ("size", "mtime_ns", "ctime_ns", "ino")),
            ]
            for file in checkpoint.files
        ]
        names = xxhash.xxh3_64_hexdigest("\n".join(checkpoint).encode())  # one file may be read under different names
        key = [names, checkpoint.base_digest, *stats]
        return ContentSummary(**self.get("checkpoints", key, lambda: vars(ContentSummary.of(checkpoint))))

    def _path(self, kind: str, key: list) -> Path:
        return self._folder / kind / f"{xxhash.xxh3_128_hexdigest(json.dumps(key).encode())}.json"


@dataclass(frozen=True)
class ContentSummary:
    """The digest of a state dict, and which of its entries are not finite.

    digest: of all entries.
    non_finite: names of entries with NaN or infinite values.
    """

    digest: str
    non_finite: list[str]

    @classmethod
    def of(cls, entries: StateDict) -> "ContentSummary":
        """Return the summary of a state dict, reading all of it."""
        non_finite = [key for key in weight_names(entries) if not is_finite(entries[key])]
        return cls(digest(entries.items()), non_finite)
