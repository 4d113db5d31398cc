"""Downloads by torchvision, and what goes wrong with reading, in sentences."""

import contextlib
import os
import pickle
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

from src.data.torchvision_sets import Torchvision
from src.errors import UserError
from src.files import folder_beside

ARCHIVES = (".gz", ".tgz", ".zip", ".tar")
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, TypeError, ImportError),
    AssertionError,  # what torchvision says of the head of a file that is not in MNIST's format
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
        said = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise UserError(f"{what} ({said}); {remedy}") from reason


def fetch_by_torchvision(name: str, place: Torchvision, data: Path) -> None:
    """Download beside, then move into place below `data`: a killed download leaves nothing that looks complete."""
    landed = data / f".{name}.download"
    with folder_beside(landed) as draft:
        root = draft / place.root.relative_to(data)
        root.mkdir(parents=True, exist_ok=True)
        with problems_of(f"torchvision could not download {name}", "try again, or by hand"):
            replace(place, root=root).download()
        for path in draft.rglob("*"):  # what archives held lies unpacked beside them
            if path.name.endswith(ARCHIVES) and path.is_file():
                path.unlink()
    _move(landed, data)
    shutil.rmtree(landed)


def _move(source: Path, target: Path) -> None:
    """Whole folders where there is none yet; what is at `target` already stays."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if not place.exists():
            os.replace(path, place)
        elif path.is_dir() and place.is_dir():
            _move(path, place)
