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
    *(OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, TypeError),
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
    _move(landed, data)
    shutil.rmtree(landed, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Everything but archives, whose contents lie beside them; what is at `target` already stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        elif not place.exists() and not path.name.endswith(ARCHIVES):
            os.replace(path, place)
