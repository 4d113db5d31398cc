"""The rule by which files become 8-bit RGB."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from src.data import images
from src.data.images import FORMATS, MOST_PIXELS, ImageFiles, read_rgb, read_rgb_or_grey
from src.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
COLOURS = Image.fromarray(NOISE[..., :3])


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decoded(content: bytes) -> Image.Image:
    return read_rgb(io.BytesIO(content), "one")


def grey_of(values: list[float], dtype: type, image_format: str) -> list[int]:
    """Return the greys that values become that a file of this format holds."""
    image = decoded(encoded(Image.fromarray(np.array([values], dtype)), image_format))
    assert image.mode == "RGB" and all(len(set(pixel)) == 1 for pixel in np.asarray(image)[0].tolist())
    return np.asarray(image)[0, :, 0].tolist()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # lies on its side
ORDINARY = {
    **{image_format.lower(): (COLOURS, image_format, {}) for image_format in FORMATS},
    "cmyk": (COLOURS.convert("CMYK"), "JPEG", {}),
    "progressive": (COLOURS, "JPEG", {"progressive": True}),
    "turned": (COLOURS, "JPEG", {"exif": TURNED}),
    "grey": (COLOURS.convert("L"), "PNG", {}),
    "bits": (COLOURS.convert("1"), "PNG", {}),
    "see-through": (Image.fromarray(NOISE), "PNG", {}),
    "see-through grey": (Image.fromarray(NOISE[..., :2], "LA"), "PNG", {}),
    "palette": (COLOURS.convert("P"), "PNG", {}),
    "see-through palette": (COLOURS.convert("P"), "PNG", {"transparency": bytes(range(256))}),
    "see-through colour": (COLOURS, "PNG", {"transparency": (1, 2, 3)}),
    "frames": (COLOURS, "GIF", {"save_all": True, "append_images": [COLOURS.rotate(180)]}),
    "frames webp": (COLOURS, "WEBP", {"save_all": True, "append_images": [COLOURS.rotate(180)], "lossless": True}),
    "lab": (COLOURS.convert("YCbCr"), "TIFF", {}),
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.filterwarnings("error")
def test_ordinary_images_are_those_of_the_papers_loaders_to_the_bit(name, tmp_path):
    image, image_format, options = ORDINARY[name]
    path = tmp_path / "image.jpg"  # a name decides nothing
    path.write_bytes(encoded(image, image_format, **options))
    ours, label = ImageFiles([(str(path), 3)])[0]
    with Image.open(path) as opened:
        opened.info.pop("transparency", None)
        theirs = opened.convert("RGB")
    assert label == 3 and ours.mode == "RGB" and ours.size == theirs.size and ours.tobytes() == theirs.tobytes()
    again = read_rgb_or_grey(io.BytesIO(path.read_bytes()), "one")
    assert again.mode == ("L" if name == "grey" else "RGB") and again.convert("RGB").tobytes() == theirs.tobytes()


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_high_byte(image_format):
    assert grey_of([0, 255, 256, 32768, 65535], np.uint16, image_format) == [0, 0, 1, 128, 255]
    assert grey_of([0, 1, 255], np.uint16, image_format) == [0, 0, 0]  # dark, and not of 8 bits


@pytest.mark.parametrize(
    ("values", "dtype", "greys"),
    [
        ([0.0, 0.25, 1.0], np.float32, [0, 63, 255]),
        ([0.0, 1.5, 200.0], np.float32, [0, 1, 200]),
        ([0.0, 256.0, 65535.0], np.float32, [0, 1, 255]),
        ([-1.0, 0.0, 1.0], np.float32, [0, 127, 255]),
        ([7e8, 7e8, 7e8], np.float32, [0, 0, 0]),
        ([0, 1, 200], np.int32, [0, 1, 200]),
        ([0, 256, 65535], np.int32, [0, 1, 255]),
        ([-(2**31), 0, 2**31 - 1], np.int32, [0, 127, 255]),
    ],
)
def test_wider_numbers_are_of_the_first_usual_range_or_of_their_own(values, dtype, greys):
    assert grey_of(values, dtype, "TIFF") == greys


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(value):
    with pytest.raises(UserError, match="no finite numbers"):
        grey_of([0.0, value], np.float32, "TIFF")


def test_large_images_are_scaled_a_part_at_a_time(monkeypatch):
    values = np.linspace(0, 1, 10).tolist()
    whole = grey_of(values, np.float32, "TIFF")
    monkeypatch.setattr(images, "CHUNK", 3)
    assert grey_of(values, np.float32, "TIFF") == whole


@pytest.mark.parametrize("image_format", ["EPS", "ICO", "JPEG2000", "PCX", "SGI"])
def test_no_other_format_is_opened_whatever_the_file_is_called(image_format, tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(COLOURS, image_format))
    accept = Image.OPEN[image_format][1]
    monkeypatch.setitem(Image.OPEN, image_format, (lambda *_: pytest.fail("opened"), accept))
    with pytest.raises(UserError, match=rf"image\.jpg is in the format {image_format}, and JPEG, .* are read; convert it"):
        ImageFiles([(str(path), 0)])[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the module has it: pytest forgets that
def test_a_claim_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    content = encoded(COLOURS, "PNG")
    for height in (MOST_PIXELS // 7 + 1, 2**31 - 1):  # where PIL would warn, and where it would raise
        claim = content[:20] + height.to_bytes(4, "big") + content[24:]
        crc = zlib.crc32(claim[12:29]).to_bytes(4, "big")
        with pytest.raises(UserError, match="one claims to have more than 89 million pixels"):
            decoded(claim[:29] + crc + claim[33:])
