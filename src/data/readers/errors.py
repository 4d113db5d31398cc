"""The errors of readers and downloads, raised as UserErrors that name the file or the example."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import Dataset

from src.data.task import Examples
from src.errors import UserError


@contextlib.contextmanager
def dataset_errors(what: str, remedy: str) -> Iterator[None]:
    """Raise errors of readers and downloads in this block as UserErrors: they fail in many ways, which the user can fix.

    what: the sentence of what failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries have errors of their own, and a damaged file can raise any
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} ({message}); {remedy}") from error


def image_errors(name: object) -> contextlib.AbstractContextManager[None]:
    """Raise errors of reading an image in this block as UserErrors.

    name: of the image: its file, or where it is.
    """
    return dataset_errors(f"the image {name} cannot be read", "get it anew, or remove the dataset and fetch it again")


class NamedErrors(Dataset):
    """A dataset whose own errors do not name the image; here they are raised as UserErrors with its number below `root`."""

    def __init__(self, examples: Examples, root: Path):
        self._examples, self._root = examples, root

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        with image_errors(f"{index} below {self._root}"):
            return self._examples[index]
