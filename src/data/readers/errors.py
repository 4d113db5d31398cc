"""What goes wrong with reading, in sentences that name the file or the example."""

import contextlib
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

from torch.utils.data import Dataset

from src.data.task import Examples
from src.errors import UserError

UNREADABLE = (
    *(OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, TypeError, ImportError),
    AssertionError,  # what torchvision says of the head of a file that is not in MNIST's format
    SyntaxError,  # what PIL says of a broken png
    *(HTTPException, tarfile.TarError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


@contextlib.contextmanager
def problems_of(what: str, remedy: str) -> Iterator[None]:
    """Readers and downloads fail in many ways, all of which the user can mend."""
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as reason:
        raise unreadable(what, remedy, reason) from reason


def unreadable(what: str, remedy: str, reason: Exception) -> UserError:
    said = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return UserError(f"{what} ({said}); {remedy}")


def bad_image(what: object, reason: Exception) -> UserError:
    return unreadable(f"the image {what} cannot be read", "get it anew, or remove the dataset and fetch it again", reason)


class NamedErrors(Dataset):
    """Examples of another's reader; one that cannot be read is named: by its file in `paths`, else by its number."""

    def __init__(self, examples: Examples, root: Path, paths: Sequence[str] = ()):
        self._examples, self._root, self._paths = examples, root, paths

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._examples[index]
        except UNREADABLE as reason:
            raise bad_image(self._paths[index] if self._paths else f"{index} below {self._root}", reason) from reason
