"""The zips that torch.save writes: entries as they are, one after another, each with a checksum."""

import zipfile
from pathlib import Path

from src.errors import UserError

ZIP = b"PK\x03\x04"


def is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def check_archive(path: Path) -> None:
    """Raise BadZipFile if the entries may take more memory than the file does on disk; reads only the table of contents.

    torch.save never compresses, and a compressed entry of a kilobyte can inflate without end.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise zipfile.BadZipFile(f"{packed[0]} is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise zipfile.BadZipFile("its entries say they are larger than the file, or share its bytes")


def check_contents(path: Path) -> None:
    """Raise UserError if a byte of a zip that torch.save wrote has changed since; older files have no checksums.

    Reads the whole file: opening one reads only names and shapes, and finds bytes that are missing, but none that are others.
    """
    if not is_archive(path):
        return
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as reason:
        raise UserError(f"{path} cannot be read ({reason}); remove it, and copy or download it again") from reason
    if damaged:
        raise UserError(
            f"{path} is damaged: the bytes of {damaged} are not those that were saved; remove it, and copy or download it again"
        )
