"""Downloads by torchvision: into a draft folder first, so that a killed one leaves nothing that looks complete."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from src.data.readers.errors import dataset_errors
from src.data.readers.torchvision import Torchvision
from src.downloads.patience import SILENCE

ARCHIVES = (".gz", ".tgz", ".zip", ".tar")
RESUMABLE = (*ARCHIVES, ".mat")  # what comes over the network: torchvision takes a file whose checksum is right as it is


def download_by_torchvision(name: str, reader: Torchvision, data: Path) -> None:
    """Download into a hidden folder, which an interrupted run leaves for the next, then move what came into `data`.

    Raise UserError with the reason if that fails.
    """
    draft = data / f".{name}.download"
    root = draft / reader.root.relative_to(data)
    data.mkdir(parents=True, exist_ok=True)
    with FileLock(data / f".{name}.lock"):  # the file stays: who waits for it and who comes later must lock the same one
        if not reader.missing_files():  # another process was faster
            return
        try:
            _remove_files_except(RESUMABLE, draft)  # torchvision would take a half-unpacked folder for a whole one
            root.mkdir(parents=True, exist_ok=True)
            with dataset_errors(f"torchvision could not download {name}", "try again, or by hand"), _silence_ends():
                replace(reader, root=root).download()
            for path in [path for path in draft.rglob("*") if path.name.endswith(ARCHIVES) and path.is_file()]:
                path.unlink()  # what it held lies unpacked beside it
            _move(draft, data)
            shutil.rmtree(draft)
        finally:
            if not any(path.is_file() for path in draft.rglob("*")):
                shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _silence_ends() -> Iterator[None]:
    """Give the connections of this block the timeout that torchvision sets none of."""
    earlier = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(earlier)


def _remove_files_except(endings: tuple[str, ...], folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(endings)]:
        path.unlink()


def _move(source: Path, target: Path) -> None:
    """Move what a folder holds: folders whole where there is none yet; a file that is there stays, unless it was cut short."""
    for path in sorted(source.iterdir()):
        destination = target / path.name
        if not destination.exists() or (
            path.is_file() and destination.is_file() and destination.stat().st_size != path.stat().st_size
        ):
            os.replace(path, destination)
        elif path.is_dir() and destination.is_dir():
            _move(path, destination)
