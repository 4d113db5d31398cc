"""The zip archives that torch.save and torch.jit.save write: uncompressed entries, one after another, each with a checksum."""

import re
import zipfile
from pathlib import Path

from src.errors import UserError
from src.runtime.untrusted import open_regular

SIGNATURE = b"PK\x03\x04"
MEMBERS = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|(\.?data|constants|code)/.*"
)
CODE = "code/"  # folder of TorchScript's programs, compressed and never read here


def is_archive(path: Path) -> bool:
    """Whether a file starts as a zip archive does. Raise UserError if it is no regular file."""
    with open_regular(path) as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def check_archive(path: Path) -> None:
    """Raise BadZipFile if the entries may take more memory than the file does on disk; read only the table of contents.

    Pickles and storages are never compressed, and a compressed entry of a kilobyte can inflate without end.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.filename.partition("/")[2].startswith(CODE)]
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise zipfile.BadZipFile(f"{compressed[0]} is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise zipfile.BadZipFile("its entries say they are larger than the file, or share its bytes")


def unread_members(path: Path) -> list[str]:
    """Return the names of what an archive holds beside what torch.save and torch.jit.save write; [] of any other file."""
    if not is_archive(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if not MEMBERS.fullmatch(name.partition("/")[2])]


def check_contents(path: Path) -> None:
    """Raise UserError if a byte of an archive has changed since torch.save wrote it; older formats have no checksums.

    Read the whole file: opening a checkpoint reads names and shapes only, which shows bytes that are missing, but none
    that have changed.
    """
    if not is_archive(path):
        return
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged_entry = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it, and copy or download it again") from error
    if damaged_entry:
        raise UserError(
            f"{path} is damaged: the bytes of {damaged_entry} are not those that were saved; remove it, and copy or download it "
            "again"
        )
