"""The format of a weight file, by its first bytes: names are changed, and web pages and pointers come in the place of weights."""

from enum import Enum
from pathlib import Path

from src.errors import UserError
from src.runtime.untrusted import open_regular

AGAIN = "copy or download it again"
# What else is found under the names of weights, by its first bytes.
OTHERS = {
    b"version https://git-lfs.github.com/": "is a pointer of git-lfs and holds no weights; run `git lfs pull` in its folder",
    b"<": "is a web page and no weights; download the file itself",
    b"{": f"is a text of json and no weights; {AGAIN}",
    b"GGUF": "is a GGUF file of llama.cpp, whose weights are quantised; give the model it was made from",
    b"\x89HDF": "is an HDF5 file, as Keras writes; save the model as safetensors first",
    b"\x93NUMPY": "is an array of numpy; save the model as safetensors first",
    b"PAR1": "is a parquet file and no weights; name the weights",
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!"), "is compressed; unpack it"),
}
TAR = b"ustar"
TAR_OFFSET = 257


class Format(Enum):
    """A format of weights that is read here."""

    SAFETENSORS = "safetensors"
    TORCH = "a file of torch.save"


def format_of(path: Path) -> Format:
    """Return the format of a weight file, whatever its name ends in.

    Raise UserError if it is no regular file, or of a format that is not read here, which it names.
    """
    try:
        with open_regular(path) as file:
            head = file.read(TAR_OFFSET + len(TAR))
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}); check the path and its permissions") from error
    if not head:
        raise UserError(f"{path} is empty; {AGAIN}")
    if head[8:9] == b"{" and head[6:8] == b"\0\0":  # the length of a header, and the header
        return Format.SAFETENSORS
    if head.startswith(b"PK\x03\x04") or (head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return Format.TORCH
    if head.endswith(TAR):
        raise UserError(f"{path} is a tar archive; unpack it")
    for start, sentence in OTHERS.items():
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            raise UserError(f"{path} {sentence}")
    raise UserError(f"{path} is neither safetensors nor a file of torch.save; {AGAIN}")
