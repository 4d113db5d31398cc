"""The errors of readers and downloads, raised as UserErrors that name the file or the example."""

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
def dataset_errors(what: str, remedy: str) -> Iterator[None]:
    """Raise errors of readers and downloads in this block as UserErrors: they fail in many ways, which the user can fix.

    what: the sentence of what failed.
    """
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        raise _user_error(what, remedy, error) from error


def bad_image(what: object, error: Exception) -> UserError:
    """Return the UserError to raise for an image that cannot be read.

    what: its file, or where it is.
    """
    return _user_error(f"the image {what} cannot be read", "get it anew, or remove the dataset and fetch it again", error)


class NamedErrors(Dataset):
    """A dataset whose own errors do not name the image; here they are raised as UserErrors that do.

    paths: the file of each image; without these, images are named by their number below `root`.
    """

    def __init__(self, examples: Examples, root: Path, paths: Sequence[str] = ()):
        self._examples, self._root, self._paths = examples, root, paths

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._examples[index]
        except UNREADABLE as error:
            raise bad_image(self._paths[index] if self._paths else f"{index} below {self._root}", error) from error


def _user_error(what: str, remedy: str, error: Exception) -> UserError:
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{what} ({message}); {remedy}")
