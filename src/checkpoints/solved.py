"""Entries that take long to compute, kept on disk until all are there: a run that was killed goes on at the one it was at."""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash
from torch import Tensor

from src.checkpoints.reading import metadata_of_file, open_files
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.runtime.untrusted import parse_json

QUESTION, FACTS = "question", "facts"
NAME = re.compile("[0-9a-f]{32}")  # of a file, the digest of its question
Solved = tuple[Tensor, dict]  # an entry, and JSON values on how it was found


@dataclass(frozen=True)
class SolvedEntries:
    """Entries below a folder, a file each.

    question: all that decides them, as JSON values; those that answer another one are not read.
    """

    folder: Path
    question: object

    def about(self, more: object) -> "SolvedEntries":
        """Return the entries of a question of which these facts are a part, too."""
        return SolvedEntries(self.folder, [self.question, more])

    def get(self, key: str, make: Callable[[], Solved]) -> Solved:
        """Return the entry that is kept under a key, or `make()`, which is then kept; a full disk keeps nothing."""
        digest = xxhash.xxh3_128_hexdigest(json.dumps([self.question, key], sort_keys=True).encode())
        path = self.folder / f"{digest}.safetensors"
        metadata = metadata_of_file(path)
        if metadata.get(QUESTION) == digest:
            with contextlib.suppress(UserError, KeyError):
                return open_files(path)[key].clone(), parse_json(metadata[FACTS], path)
        value, facts = make()
        with contextlib.suppress(UserError, OSError):
            save_file({key: value}, path, {QUESTION: digest, FACTS: json.dumps(facts)})
        return value, facts

    def remove(self) -> None:
        """Remove all entries below the folder, and the folder if nothing else is in it."""
        for file in self.folder.glob("*.safetensors"):
            if NAME.fullmatch(file.stem):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or holds what is not ours
            self.folder.rmdir()
