"""Which columns of a parquet file hold the images and the labels, and what the classes are called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, shorten

IMAGES, LABELS = ("image", "img", "img_bytes"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    image, label: the names of these two.
    class_names: in label order, if the file describes them.
    has_spelled_labels: whether labels are the classes' names themselves.
    has_paths: whether the name of each image's file is stored with it.
    """

    image: str
    label: str
    class_names: list[str] | None
    has_spelled_labels: bool
    has_paths: bool


def find_columns(path: Path, names: Mapping[str, str], task: str) -> Columns:
    """Return the columns of a file, from its head, where the Hub's datasets library describes them.

    names: the names of the columns `image` and `label`, where the user gives them.
    task: whose columns they are, for a sentence.

    Raise UserError where it is not clear which column is which.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(path)
    descriptions = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    features = {name: descriptions.get(name) or {} for name in schema.names}
    images = [
        name
        for name in schema.names
        if features[name].get("_type") == "Image"
        or pyarrow.types.is_struct(schema.field(name).type)
        or pyarrow.types.is_binary(schema.field(name).type)
        or pyarrow.types.is_large_binary(schema.field(name).type)
    ]
    class_labels = [name for name in schema.names if features[name].get("_type") == "ClassLabel"]
    labels = class_labels or [name for name in LABELS if name in schema.names]
    image = _choose("image", IMAGES, images, names, path, schema.names, task)
    label = _choose("label", LABELS, labels, names, path, schema.names, task)
    label_type, image_type = schema.field(label).type, schema.field(image).type
    has_spelled_labels = pyarrow.types.is_string(label_type) or pyarrow.types.is_large_string(label_type)
    has_paths = pyarrow.types.is_struct(image_type) and image_type.get_field_index("path") >= 0
    return Columns(image, label, features[label].get("names"), has_spelled_labels, has_paths)


def read_class_names(files: Sequence[Path], columns: Columns) -> list[str] | None:
    """Return the classes in label order: those described, else the different labels of a column of words, sorted."""
    if not columns.has_spelled_labels:
        return columns.class_names
    return sorted({name for name in read_values(files, columns.label) if name is not None})


def read_values(files: Sequence[Path], column: str) -> list:
    """Return all values of a column of small things; `image.path` is the field of a column, read without its images."""
    import pyarrow.parquet

    values = []
    for path in files:
        table = pyarrow.parquet.read_table(path, columns=[column], partitioning=None).flatten()
        values += table.column(0).to_pylist()
    return values


def _choose(
    role: str,
    usual: Sequence[str],
    candidates: Sequence[str],
    names: Mapping[str, str],
    path: Path,
    columns: Sequence[str],
    task: str,
) -> str:
    """Return the column that `names` has for a role, else a candidate with a usual name, else the only candidate."""
    if role in names and names[role] in columns:
        return names[role]
    usual_candidates = [name for name in usual if name in candidates]
    if role in names or (not usual_candidates and len(candidates) != 1):
        raise UserError(
            f"which column of {path} is the {role} is not clear (it has {shorten(columns, 9)}); "
            f"say 'tasks.{task}.columns={{{role}: NAME}}'"
        )
    return usual_candidates[0] if usual_candidates else candidates[0]
