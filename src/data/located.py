"""Sources whose data lies at a location on disk, of whatever kind the examples are."""

import json
from abc import ABC, abstractmethod

import xxhash

from src.data.location import Location
from src.data.readers.protocol import listing_digest
from src.runtime.progress import SILENT, Progress


class LocatedSource(ABC):
    """The part of a source that every one has whose data lies at a location.

    location: of the data.
    _fingerprints: of its subsets, as far as they are known.
    """

    location: Location
    _fingerprints: dict[str, str]

    def fingerprint(self, subset: str) -> str:
        """Return a digest of the files, read once: the files of a run's data do not change under it."""
        if subset not in self._fingerprints:
            reader = self.location.reader
            facts = [reader.kind, *self.decisive_facts, listing_digest(reader.root, reader.files(subset))]
            self._fingerprints[subset] = xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())
        return self._fingerprints[subset]

    @property
    @abstractmethod
    def decisive_facts(self) -> list:
        """What decides the examples beside the files and their reader, as JSON."""

    def problems(self, was_fetched: bool = False) -> list[str]:
        return self.location.problems(was_fetched)

    @property
    def is_fetchable(self) -> bool:
        return self.location.is_fetchable

    def fetch(self, progress: Progress = SILENT) -> None:
        self._fingerprints.clear()
        self.location.fetch(progress)
