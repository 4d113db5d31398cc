"""Files that others made: only regular ones are opened, and what is parsed whole has a size that memory holds."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError

MAX_DEPTH = 100  # of lists and objects in one another in a JSON text
LARGEST_TEXT = 2**26  # bytes: the index of a model of a hundred thousand entries takes a tenth of it
# Of YAML, whose readers take a hundred microseconds a node and recurse: ten thousand class names are settings still.
LARGEST_YAML = 2**20  # bytes, and characters of what aliases stand for
NODE = 64  # characters that a node counts for, beside its own
DEEPEST = 32


def open_regular(path: Path | str) -> BinaryIO:
    """Return a file opened for reading.

    Raise UserError if it is no regular file: a pipe would be waited for, a device may never end. Raise OSError if it
    cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is no regular file (a folder, pipe, socket or device); name a file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Return the contents of a file. Raise UserError if it has more than `largest` bytes, or as `open_regular` does."""
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise UserError(f"{path} has more than {largest / 2**20:,.0f} MiB, and no such file is that large; get it again")
    return content


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Return the text of a file in UTF-8. Raise UserError if it is none, or as `read_bytes` does."""
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); get it again") from error


def parse_json(text: str, source: object) -> object:
    """Return the value of a JSON text.

    source: of the text, for messages.

    Raise UserError if it is none, is nested too deep, or has numbers of thousands of digits.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} cannot be read as json ({error}); get it again") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level if isinstance(parent, list | dict)
                 for child in (parent.values() if isinstance(parent, dict) else parent)]  # fmt: skip
    if any(isinstance(child, list | dict) for child in level):
        raise UserError(f"{source} has more than {MAX_DEPTH} lists and objects in one another; get it again")
    return value


def read_json(path: Path, largest: int = LARGEST_TEXT) -> object:
    """Return the JSON value in a file. Raise UserError as `read_text` and `parse_json` do, OSError if it cannot be opened."""
    return parse_json(read_text(path, largest), path)


def read_yaml(path: Path, tags: Iterable[str] = ()) -> object:
    """Return the value of a YAML file, plain containers and scalars.

    tags: of mappings, which are read as such (`!Template`).

    Raise UserError if it is none, is nested too deep or, its aliases written out, too large; or as `read_text` does.
    """
    import yaml  # which few commands need this early

    class Loader(yaml.SafeLoader):
        pass

    for tag in tags:
        Loader.add_constructor(tag, yaml.SafeLoader.construct_yaml_map)
    text = read_text(path, LARGEST_YAML)
    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), path)
        return yaml.load(text, Loader)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as yaml ({reason[:200]}); correct it, or get it again") from error


def _check_size(events: Iterable, path: Path) -> None:
    """Raise UserError if a document is nested too deep or grows too large where its aliases are written out.

    events: of the document, from `yaml.parse`.
    """
    sizes, open_nodes = {}, []  # of anchored nodes, by anchor; (anchor, size before) of the nodes around
    size = 0
    for event in events:
        kind = type(event).__name__
        if kind.endswith("StartEvent") and hasattr(event, "anchor"):
            open_nodes.append((event.anchor, size))
            size += NODE
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, before = open_nodes.pop()
            sizes[anchor] = size - before
        elif kind == "ScalarEvent":
            sizes[event.anchor] = NODE + len(event.value.encode())  # which refuses halves of characters
            size += sizes[event.anchor]
        elif kind == "AliasEvent":
            if event.anchor in [anchor for anchor, _ in open_nodes]:
                raise UserError(f"{path} has an alias *{event.anchor} within what it stands for; write it out")
            size += sizes.get(event.anchor, 0)
        if len(open_nodes) > DEEPEST:
            raise UserError(f"{path} is nested more than {DEEPEST} levels deep, and no settings are; get it again")
        if size > LARGEST_YAML:
            raise UserError(f"{path} is larger than settings are, aliases (*{event.anchor}) written out; get it again"
                            if kind == "AliasEvent" else f"{path} has more entries than settings have; get it again")  # fmt: skip
