"""Which columns of a parquet file hold the images and the labels, and what the classes are called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, shorten

IMAGES, LABELS = ("image", "img", "img_bytes"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """What a file's columns are called.

    spelled: labels are the classes' names themselves; paths: the name of each image's file is kept with it.
    """

    image: str
    label: str
    names: list[str] | None
    spelled: bool
    paths: bool


def columns_of(path: Path, chosen: Mapping[str, str], task: str) -> Columns:
    """Read from the head of a file, where the Hub's datasets library describes its columns.

    chosen: the names of the columns `image` and `label`, where the user says them; task: whose they are, for a sentence.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(path)
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    features = {name: described.get(name) or {} for name in schema.names}
    image_files = [
        name
        for name in schema.names
        if features[name].get("_type") == "Image"
        or pyarrow.types.is_struct(schema.field(name).type)
        or pyarrow.types.is_binary(schema.field(name).type)
        or pyarrow.types.is_large_binary(schema.field(name).type)
    ]
    classes = [name for name in schema.names if features[name].get("_type") == "ClassLabel"]
    numbered = classes or [name for name in LABELS if name in schema.names]
    image, label = (
        _the("image", IMAGES, image_files, chosen, path, schema.names, task),
        _the("label", LABELS, numbered, chosen, path, schema.names, task),
    )
    kind = schema.field(label).type
    spelled = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    picture = schema.field(image).type
    paths = pyarrow.types.is_struct(picture) and picture.get_field_index("path") >= 0
    return Columns(image, label, features[label].get("names"), spelled, paths)


def _the(
    role: str,
    usual: Sequence[str],
    found: Sequence[str],
    chosen: Mapping[str, str],
    path: Path,
    columns: Sequence[str],
    task: str,
) -> str:
    """The column chosen for a role, else one with a usual name, else the only one that could be it."""
    if role in chosen and chosen[role] in columns:
        return chosen[role]
    known = [name for name in usual if name in found]
    if role in chosen or (not known and len(found) != 1):
        raise UserError(
            f"which column of {path} is the {role} is not clear (it has {shorten(columns, 9)}); "
            f"say 'tasks.{task}.columns={{{role}: NAME}}'"
        )
    return known[0] if known else found[0]


def class_names(files: Sequence[Path], columns: Columns) -> list[str] | None:
    """The classes in label order: those described, else the different labels of a column of words, sorted."""
    if not columns.spelled:
        return columns.names
    return sorted({name for name in values(files, columns.label) if name is not None})


def values(files: Sequence[Path], column: str) -> list:
    """All values of a column of small things; `image.path` is the field of a column, read without its images."""
    import pyarrow.parquet

    found = []
    for path in files:
        table = pyarrow.parquet.read_table(path, columns=[column], partitioning=None).flatten()
        found += table.column(0).to_pylist()
    return found
