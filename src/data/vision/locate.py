"""Where a dataset lies or should lie, and how it gets there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from src.data.class_names import few
from src.data.readers.image_folders import own_folders
from src.data.readers.parquet import Parquet
from src.data.readers.protocol import Place
from src.data.readers.torchvision import Torchvision
from src.data.vision.hub_copy import Mirror
from src.data.vision.spec import Row
from src.data.vision.torchvision_download import fetch_by_torchvision
from src.errors import UserError

FOLDERS = "images in train/<class>/ and test/<class>/, or train*.parquet and test*.parquet"


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Of the examples of a row: below `data`, or at `source`, a folder of the user's own or a Hub id.

    patterns, columns: of parquet files, which files, and what the columns `image` and `label` are called.
    """

    row: Row
    data: Path
    source: str | None = None
    patterns: Sequence[str] | None = None
    columns: Mapping[str, str] | None = None

    @cached_property
    def place(self) -> Place:
        """The first place that lacks nothing. Raises UserError if there is none."""
        found = next((place for place in self._candidates() if not place.lacks()), None)
        if found is None:
            raise UserError(self.problems())
        return found

    def problems(self, fetched: bool = False) -> list[str]:
        """fetched: it was downloaded just now, so that doing so again is no remedy."""
        looked = []
        for place in self._candidates():
            lacking = place.lacks()
            if not lacking:
                return []
            looked.append(f"{place.root} (it lacks {few(lacking)})")
        where = f"Looked at {'; '.join(dict.fromkeys(looked))}"
        if fetched:
            return [f"{self.row.name} was downloaded and is not whole. {where}. {self._by_hand}"]
        remedy = "download=true fetches it. " if self.fetchable else ""
        return [f"{self.row.name} is not there. {where}. {remedy}{self._by_hand}"]

    @property
    def fetchable(self) -> bool:
        return self._mirror is not None or self._torchvision is not None

    def fetch(self, plan: Callable[[int], None] | None = None, report: Callable[[str, int], None] | None = None) -> None:
        """By torchvision, else from the mirror. Raises UserError with what each said.

        plan, report: told how many bytes are to come, and from where, and how many of those have come.
        """
        name, failures = self.row.name, []
        if self._torchvision:
            try:
                if report:
                    report(f"{name} by torchvision", 0)  # which draws bars of its own
                return fetch_by_torchvision(name, self._torchvision, self.data)
            except UserError as reason:
                failures += reason.problems
        if mirror := self._mirror:
            try:
                told = report and (lambda file, done: report(f"{name} from {mirror.repository}: {file}", done))
                return mirror.fetch(self.data, plan, told)
            except UserError as reason:
                failures += reason.problems
        raise UserError(f"{name} was not downloaded: {'; '.join(failures) or 'nobody serves it'}. {self._by_hand}")

    def _candidates(self) -> list[Place]:
        """Where the data may lie, best first. Made anew each time, for a download changes what is there."""
        folder = self._folder
        if folder is None:
            native = self._native(self.data / self.row.home) if self.source is None else []
            return native + ([self._mirror.place(self.row.name, self.data)] if self._mirror else [])
        native = [place for root in dict.fromkeys((folder / self.row.home, folder)) for place in self._native(root)]
        native += [place for place in self._native(folder.parent) if _all_below(folder, place)]
        own = own_folders(folder)
        if any("test" in place.folders.values() for place in own):  # a user's own split, whatever else the folder holds
            native, own = [], [*own, *native]
        return [*native, *own, Parquet(self.row.name, folder, self.patterns or ("*",), self.columns or {})]

    def _native(self, root: Path) -> list[Place]:
        return [make(root) for make in self.row.places]

    @cached_property
    def _folder(self) -> Path | None:
        """The user's folder; what exists as a path is a path."""
        if self.source is None:
            return None
        path = Path(self.source).expanduser()
        return path if path.exists() or Mirror.of(self.source) is None else None

    @property
    def _mirror(self) -> Mirror | None:
        if self.source is None:
            return self.row.mirror
        return Mirror.of(self.source, self.patterns, self.columns) if self._folder is None else None

    @property
    def _torchvision(self) -> Torchvision | None:
        native = self._native(self.data / self.row.home) if self.source is None else []
        return next((place for place in native if isinstance(place, Torchvision) and place.downloads), None)

    @property
    def _by_hand(self) -> str:
        if self._folder is not None:
            native = f", or {self.row.layout}" if self.row.layout else ""
            return f"{self._folder} should hold {FOLDERS}{native}."
        if self.source is not None:
            return f"{self.source} should be a folder, or a dataset on the Hub that holds parquet files for train and test."
        home = f"Put it below {self.data} as {self.row.layout}, or give" if self.row.layout else "Give"
        return f"{home} tasks.{self.row.name}.source=FOLDER ({FOLDERS})."


def _all_below(folder: Path, place: Place) -> bool:
    """Whether a place at a folder's parent is all in that folder: the user named the innermost folder of a layout."""
    return all(source.is_relative_to(folder) for part in place.parts for source in place.sources(part))
