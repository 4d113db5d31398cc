"""Images: one rule for how a file, or its bytes, become 8-bit RGB.

Formats: JPEG, PNG, WebP, GIF, BMP, TIFF and PPM (PGM, PBM and PFM with it), by what a file holds, whatever it is called.
No other is opened: some would start a program (Ghostscript, of EPS) or have no size of their own.
Size: at most `MOST_PIXELS`, by the header, before anything is decoded.
Depth: 16 bits a pixel keep the high byte, as PIL keeps that of 16-bit colours. Integers of 32 bits and floats are taken to
be of the first of the ranges 0..1 (floats only), 0..255 and 0..65535 that holds them all, else of their own; the range is
scaled to 0..255.
Colour: `convert("RGB")`, as in the papers' loaders, to the bit: palettes are looked up, CMYK is turned into RGB without a
profile, and transparency is dropped, not blended. The orientation that EXIF asks for is ignored as it is there.
Of several frames it is the first. A file that is cut short is an error, never half an image.

Pixels are kept after they were decoded: with this rule the pixel cache's `VERSION` changes.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.readers.errors import image_errors
from src.errors import UserError
from src.runtime.untrusted import open_regular

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
MOST_PIXELS = 89_478_485  # 256 MiB in three bytes a pixel: where PIL warns of a decompression bomb
BITS, PHOTOMETRIC, SAMPLE_FORMAT, WHITE_IS_ZERO = 258, 262, 339, 0  # tags of TIFF, and a value
CHUNK = 2**16  # pixels that are scaled at a time, in 64-bit floats
UNIT, BYTE, WORD = (1, 1), (255, 255), (65535, 65280)  # of a range of values: the largest, and what becomes 255

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # an error here, of `MOST_PIXELS`


class ImageFiles(Dataset):
    """Image files with labels, opened one by one.

    samples: the path and label of each.
    """

    def __init__(self, samples: Sequence[tuple[str, int]]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._samples[index]
        with image_errors(path), open_regular(path) as file:
            return read_rgb(file, path), label


Pictures = ImageFiles  # the name under which checks of the program from outside know it


def read_rgb(file: BinaryIO, name: str) -> Image.Image:
    """Return the image in a file, in RGB.

    name: of the image, for sentences.

    Raise UserError if it is in none of `FORMATS`, is damaged or too large.
    """
    with _eight_bits(file, name) as image:
        return image.convert("RGB")


def read_rgb_or_grey(file: BinaryIO, name: str) -> Image.Image:
    """Return the image in a file, as `read_rgb` does; one in 8-bit grey stays so: there is less to resize."""
    with _eight_bits(file, name) as image:
        return image.convert("L" if image.mode == "L" else "RGB")


@contextlib.contextmanager
def _eight_bits(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open an image whose pixels have 8 bits a channel, in any of PIL's modes of such."""
    with image_errors(name):
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise UserError(f"the image {name} {_other_format(file)}") from None
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        with image:
            if math.prod(image.size) > MOST_PIXELS:
                raise _too_large(name)
            image.info.pop("transparency", None)  # else PIL says, of each palette with some, what it should be converted to
            yield _scaled(image) if image.mode.startswith(("I", "F")) else image


def _too_large(name: str) -> UserError:
    return UserError(
        f"the image {name} claims to have more than {MOST_PIXELS / 1e6:.0f} million pixels; make it smaller, or remove it"
    )


def _other_format(file: BinaryIO) -> str:
    """Return what to say of a file that none of `FORMATS` opens; nothing of it is decoded to find out which it is."""
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")  # some of PIL's tests unpack it as it is
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        if name not in FORMATS and accept and accept(head) is True:
            return f"is in the format {name}, and {', '.join(FORMATS)} are read; convert it to one of these, or remove it"
    return f"cannot be read (it is damaged or none of {', '.join(FORMATS)}); get it anew, or remove it"


def _scaled(image: Image.Image) -> Image.Image:
    """Return an image in integers of 16 or 32 bits, or in floats, in 8-bit grey."""
    values = np.asarray(image)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if tags.get(BITS, (16,))[0] not in (8, 16, 32):
        raise ValueError(f"it has {tags[BITS][0]} bits a pixel, and 8, 16 and 32 are read")
    if tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # PIL takes them for signed
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and image.mode.startswith("I;16"):
        values = 65535 - values  # which PIL does in 8 bits only
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    black, white = _range(image, float(values.min()), float(values.max()))
    if not math.isfinite(white - black):
        raise ValueError("some of its pixels are no finite numbers")
    flat, grey = values.reshape(-1), np.empty(values.size, np.uint8)
    for start in range(0, values.size, CHUNK):
        part = slice(start, start + CHUNK)
        grey[part] = (flat[part].astype(float) - black) * 255 / ((white - black) or 1)
    return Image.fromarray(grey.reshape(values.shape))


def _range(image: Image.Image, low: float, high: float) -> tuple[float, float]:
    """Return which values become 0 and 255, in an image in 32-bit integers or floats.

    low, high: the smallest and largest of its values.
    """
    is_word = image.mode == "I" and image.format != "TIFF"  # of PNG and PGM PIL makes such integers of at most 16 bits
    for largest, white in [WORD] if is_word else [BYTE, WORD] if image.mode == "I" else [UNIT, BYTE, WORD]:
        if low >= 0 and high <= largest:
            return 0, white
    return low, high
