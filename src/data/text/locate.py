"""Where the tables of a text task lie: below data_location, in a user's folder, or on the Hub."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from src.data.hub_copy import HubCopy
from src.data.location import Location, folder_or_copy
from src.data.readers.tables import Tables
from src.data.text.spec import TextSpec

KINDS = "parquet, jsonl or csv"


def locate(
    name: str,
    data: Path,
    spec: TextSpec | None = None,
    source: str | None = None,
    patterns: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Location[Tables]:
    """Return the location of a task's tables.

    data: the folder that datasets lie below.
    spec: of a published task.
    source: a folder of the user's own or a Hub id, instead of where that one lies.
    patterns: which files of it.
    columns: what columns are called there.
    """
    columns = {**(spec.columns if spec else {}), **(columns or {})}
    read = partial(Tables, roles=spec.roles if spec else {})
    words = (spec.roles if spec else {"train": "train", "test": "test"}).values()
    files = " and ".join(f"{word}*" for word in words) + f" in {KINDS}"
    place = folder_or_copy(source, patterns, columns)
    if isinstance(place, Path):
        return Location(name, lambda: [read(name, place, patterns or ("*",), columns)], (), f"put {files} in {place}")
    home = [] if source else [data / name]
    copies: Sequence[HubCopy] = [place] if place else spec.copies if spec else []
    remedy = (
        f"give a folder, or a dataset on the Hub, that holds {files}, as tasks.{name}.source"
        if place
        else f"put {spec.layout if spec and spec.layout else files} into {data / name}, or give tasks.{name}.source=FOLDER"
    )
    return Location(
        name,
        lambda: [read(name, folder, ("*",), columns) for folder in home] + [copy.reader(read, name, data) for copy in copies],
        [partial(copy.fetch, data, name) for copy in copies],
        remedy,
    )
