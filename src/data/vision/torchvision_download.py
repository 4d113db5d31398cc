"""Downloads by torchvision: beside the place at first, so that a killed one leaves nothing that looks complete."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from src.data.readers.errors import problems_of
from src.data.readers.torchvision import Torchvision

ARCHIVES = (".gz", ".tgz", ".zip", ".tar")
FETCHED = (*ARCHIVES, ".mat")  # what comes over the network; torchvision takes a file whose checksum is right as it is


def download_by_torchvision(name: str, reader: Torchvision, data: Path) -> None:
    """Download into a hidden folder, which an interrupted run leaves for the next, then move into place below `data`."""
    draft = data / f".{name}.download"
    root = draft / reader.root.relative_to(data)
    data.mkdir(parents=True, exist_ok=True)
    with FileLock(data / f".{name}.lock"):
        if not reader.missing_files():  # another process was faster
            return
        try:
            _keep(draft, FETCHED)  # torchvision would take a half-unpacked folder for a whole one
            root.mkdir(parents=True, exist_ok=True)
            with problems_of(f"torchvision could not download {name}", "try again, or by hand"):
                replace(reader, root=root).download()
            for path in [path for path in draft.rglob("*") if path.name.endswith(ARCHIVES) and path.is_file()]:
                path.unlink()  # what it held lies unpacked beside it
            _move(draft, data)
            shutil.rmtree(draft)
        finally:
            if not any(path.is_file() for path in draft.rglob("*")):
                shutil.rmtree(draft, ignore_errors=True)
            (data / f".{name}.lock").unlink(missing_ok=True)


def _keep(folder: Path, endings: tuple[str, ...]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(endings)]:
        path.unlink()


def _move(source: Path, target: Path) -> None:
    """Whole folders where there is none yet; a file that is there stays, unless it was cut short."""
    for path in sorted(source.iterdir()):
        reader = target / path.name
        if not reader.exists() or (path.is_file() and reader.is_file() and reader.stat().st_size != path.stat().st_size):
            os.replace(path, reader)
        elif path.is_dir() and reader.is_dir():
            _move(path, reader)
