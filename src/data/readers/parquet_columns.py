"""Which columns of a parquet file hold the images and the labels, and what the classes are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.readers.parquet_files import checked_metadata, open_parquet
from src.errors import UserError, shorten
from src.runtime.untrusted import parse_json

if TYPE_CHECKING:  # imported where it is used: it takes long, and few runs need it
    from pyarrow import ChunkedArray

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

    schema = checked_metadata(path).schema.to_arrow_schema()
    descriptions = _descriptions((schema.metadata or {}).get(b"huggingface", b"{}"), path)
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
    types = pyarrow.types
    is_number = types.is_integer(label_type) or types.is_floating(label_type) or types.is_boolean(label_type)
    if not (has_spelled_labels or is_number or types.is_null(label_type)):
        raise UserError(
            f"the labels of {path}, in its column {label}, are neither numbers nor words ({shorten([label_type])}); "
            f"name another with 'tasks.{task}.columns={{label: NAME}}'"
        )
    has_paths = pyarrow.types.is_struct(image_type) and image_type.get_field_index("path") >= 0
    return Columns(image, label, _names(features[label].get("names"), path), has_spelled_labels, has_paths)


def read_class_names(files: Sequence[Path], columns: Columns) -> list[str] | None:
    """Return the classes in label order: those described, else the different labels of a column of words, sorted."""
    if not columns.has_spelled_labels:
        return columns.class_names
    return sorted({name for name in read_values(files, columns.label) if name is not None})


def read_values(files: Sequence[Path], column: str) -> list:
    """Return all values of a column of small things; `image.path` is the field of a column, read without its images."""
    values = []
    for path in files:
        checked_metadata(path)
        with open_parquet(path) as file:
            for number in range(file.num_row_groups):  # of several at once pyarrow cannot make a field of dictionaries
                values += _spelled_out(file.read_row_group(number, columns=[column]).flatten().column(0))
    return values


def _spelled_out(column: "ChunkedArray") -> list:
    """Return the values of a column, whose words may be in dictionaries: each is made once."""
    import pyarrow

    values = []
    for chunk in column.chunks:
        if pyarrow.types.is_dictionary(chunk.type):
            words = chunk.dictionary.to_pylist()
            values += [None if index is None else words[index] for index in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values


def _descriptions(text: bytes, path: Path) -> dict[str, dict]:
    """Return what the Hub's datasets library wrote into a file about each of its columns; {} where it is nothing it writes."""
    value = parse_json(text.decode(), f"the description of the columns in {path}")
    for key in ("info", "features"):
        value = value.get(key) if isinstance(value, dict) else None
    return {name: features for name, features in value.items() if isinstance(features, dict)} if isinstance(value, dict) else {}


def _names(names: object, path: Path) -> list[str] | None:
    """Return the names of classes in a description. Raise UserError if they are none."""
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"the names of the classes in {path} are no list of words; get it again")
    return names


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
