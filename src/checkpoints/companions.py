"""What lies beside a model's weights in its folder: what comes along with a merged model, and what does not.

Configuration, tokenizers, code and licences come along, and so do the folders of a model's further modules (pooling of a
sentence encoder, say), so that a merged model is loaded as the original was. Other weights do not.
"""

import filecmp
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from src.checkpoints.shards import PICKLED
from src.errors import UserError
from src.runtime.untrusted import open_regular, read_json

WEIGHTS = {".safetensors", *PICKLED} | {
    *(".ckpt", ".gguf", ".ggml", ".h5", ".keras", ".msgpack", ".npz", ".onnx", ".ot", ".pb", ".tflite")
}
LARGEST = 2**26  # bytes of a file: vocabularies are smaller, and weights under another name are not
MOST_FILES = 1000  # of a sub-folder: code and tokenizers have fewer, and data have more
BLOCK = 2**20  # bytes that are copied at a time
MODULES = "modules.json"  # of sentence-transformers: a list of objects with a path


@dataclass(frozen=True)
class Companions:
    """The files below a folder of weights that come along, and those that do not, all relative to the folder.

    files: that come along.
    modules: weights of further modules, which come along as they are: they are not merged.
    left: files and folders that do not.
    """

    folder: Path
    files: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of all that comes along."""
        return sum((self.folder / name).stat().st_size for name in (*self.files, *self.modules))

    def copy_to(self, folder: Path) -> None:
        """Write copies, regular files, below another folder. Raise UserError if a file has grown beyond any companion's size."""
        for name in (*self.files, *self.modules):
            source, target = self.folder / name, folder / name
            largest = source.stat().st_size if name in self.modules else LARGEST
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(source) as file, target.open("wb") as copy:
                for start in range(0, largest, BLOCK):
                    copy.write(file.read(min(BLOCK, largest - start)))
                if file.read(1):
                    raise UserError(f"{source} has grown while it was copied, or has more than {LARGEST / 2**20:.0f} MiB")


def companions_of(folder: Path, own: Collection[Path] = ()) -> Companions:
    """Return what lies beside the weights in a folder; files and folders that are hidden are none.

    own: the model's files.
    """
    files, modules, left = [], [], []
    declared = _declared_modules(folder)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            below = list(_below(folder, path))
            weights = [name for name in below if _is_weights(name)]
            is_small = len(below) <= MOST_FILES and all(_comes_along(folder / name) for name in below if name not in weights)
            if path.is_symlink() or not is_small or (weights and path.name not in declared):
                left.append(path.name)
            else:
                files += [name for name in below if name not in weights]
                modules += weights
        elif _comes_along(path):
            files.append(path.name)
        elif path not in own and not path.name.endswith(".index.json"):
            left.append(path.name)
    return Companions(folder, tuple(files), tuple(modules), tuple(left))


def weights_in_subfolders(folder: Path) -> list[str]:
    """Return the weight files below the sub-folders of a folder, relative to it: they are of other models, or modules."""
    subfolders = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [name for path in subfolders for name in _below(folder, path) if _is_weights(name)]


def is_copy(file: Path, root: Path, sources: list[Path]) -> bool:
    """Whether a file below `root` is a copy of the one with its name below one of `sources`."""
    name = file.relative_to(root)
    originals = (source / name for source in sources if source.is_dir())
    return any(original.is_file() and filecmp.cmp(original, file, shallow=False) for original in originals)


def _declared_modules(folder: Path) -> set[str]:
    """Return the names of the folders that a model says are modules of it."""
    try:
        entries = read_json(folder / MODULES, LARGEST)
        return {str(entry["path"]).split("/")[0] for entry in entries if entry["path"]}
    except (OSError, UserError, TypeError, KeyError, AttributeError):
        return set()


def _below(folder: Path, path: Path) -> Iterator[str]:
    """Yield the files below a sub-folder, relative to `folder`, links to folders not followed; one more than may be copied."""
    count = 0
    for where, subfolders, names in os.walk(path):
        links = [name for name in subfolders if Path(where, name).is_symlink()]
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in links)
        for name in sorted(name for name in (*names, *links) if not name.startswith(".")):
            count += 1
            if count > MOST_FILES + 1:
                return
            yield str(Path(where, name).relative_to(folder))


def _is_weights(name: str) -> bool:
    return Path(name).suffix in WEIGHTS


def _comes_along(path: Path) -> bool:
    """Whether a file is regular, or a link to a regular one, small, and holds no weights."""
    is_other = _is_weights(path.name) or path.name.endswith(".index.json")
    return path.is_file() and not is_other and path.stat().st_size <= LARGEST
