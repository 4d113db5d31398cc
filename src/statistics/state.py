"""The state of an unfinished collection on disk: a rerun goes on from there to the same bits."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from src.checkpoints.reading import metadata_of_file, open_files
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.runtime.untrusted import parse_json
from src.statistics.collector import Sums


@dataclass
class CollectionState:
    """The state file of one collection.

    about: what decides its bits; a state of anything else, or one that is damaged, counts as none.
    save_minutes: minutes between two states.
    """

    path: Path
    about: Mapping[str, object]
    save_minutes: float
    _last: float = field(default_factory=time.monotonic, init=False)

    def save_if_due(self, statistics: Sequence[Sums], batches: int) -> None:
        """Write what was summed up over a number of batches, if the last state is older than `save_minutes`."""
        if time.monotonic() - self._last < 60 * self.save_minutes:
            return
        facts = {
            "batches": batches,
            "counts": {each.kind: each.counts for each in statistics},
            "aliases": {each.kind: each.aliases for each in statistics},
        }
        entries = {f"{each.kind}.{name}": leaf for each in statistics for name, leaf in each.sums.items()}
        save_file(entries, self.path, {"about": self._about, "state": json.dumps(facts)})
        self._last = time.monotonic()

    def load(self, statistics: Sequence[Sums], device: torch.device) -> int:
        """Restore empty sums, if there is a state of them; return the number of batches it is after."""
        metadata = metadata_of_file(self.path)
        if metadata.get("about") != self._about:
            return 0
        try:
            facts, saved = parse_json(metadata["state"], self.path), open_files(self.path)
        except UserError:
            return 0
        for each in statistics:
            each.counts.update(facts["counts"][each.kind])
            each.aliases.update(facts["aliases"][each.kind])
            each.sums.update({name: saved[f"{each.kind}.{name}"].to(device, copy=True) for name in each.counts})
        return facts["batches"]

    @property
    def _about(self) -> str:
        return json.dumps(self.about, sort_keys=True)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
