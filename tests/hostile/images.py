"""Image files made to do harm or to mislead: each function writes one to a path."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
Write = Callable[[Path], object]


def encoded(image_format: str, image: Image.Image = COLOURS, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def content(make: Callable[[], bytes]) -> Write:
    """Return what writes the bytes that `make` returns."""
    return lambda path: path.write_bytes(make())


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a png."""
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8, colour: int = 2, before: bytes = b"") -> bytes:
    """Return a png with this header, whatever its pixels are; `before` stands between."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int], body: bytes = b"") -> bytes:
    """Return a tiff with these (tag, type, count, value), and bytes behind them."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + body


def grey_tiff(width: int, height: int, *tags: tuple[int, int, int, int]) -> bytes:
    """Return a tiff of 8-bit grey that has 64 bytes of pixels, with further tags."""
    usual = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    usual |= {273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, 64)} | {tag: fields for tag, *fields in tags}
    return tiff(*((tag, *fields) for tag, fields in sorted(usual.items()))).ljust(264, b"\x07")


def bmp(width: int, height: int) -> bytes:
    head = encoded("BMP")
    return head[:18] + struct.pack("<ii", width, height) + head[26:]


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """Return a gif whose screen and first frame claim these sizes."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"


def webp(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0x02) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    head = encoded("JPEG")
    start = head.index(b"\xff\xc0") + 5
    return head[:start] + struct.pack(">HH", height, width) + head[start + 4 :]


def text(size: int) -> bytes:
    """Return a chunk of text that unpacks to `size` bytes."""
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size)))


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    """Write a file that claims a terabyte, behind the head of an image."""
    path.write_bytes(encoded("PNG")[:40])
    os.truncate(path, 2**40)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(owned) print\nshowpage\n%%EOF\n"
SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
FILES: dict[str, Write] = {
    "png_that_claims_60000_by_60000": content(lambda: png(60000, 60000)),
    "png_that_claims_two_billion_rows": content(lambda: png(1, 2**31 - 1)),
    "png_just_above_the_bound": content(lambda: png(9460, 9460)),
    "png_without_pixels_just_below_the_bound": content(lambda: png(9459, 9459)),
    "png_of_no_size": content(lambda: png(0, 0)),
    "png_of_sixteen_bits_without_pixels": content(lambda: png(9000, 9000, depth=16, colour=0)),
    "png_with_text_of_a_hundred_megabytes": content(lambda: png(4, 4, before=text(10**8))),
    "png_with_a_hundred_texts": content(lambda: png(4, 4, before=text(10**6) * 100)),
    "png_with_a_profile_that_unpacks_to_a_hundred_megabytes": content(
        lambda: png(4, 4, before=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8))))
    ),
    "png_with_more_pixels_than_it_claims": content(lambda: png(4, 4, bytes(10**8))),
    "png_chunk_that_claims_two_gigabytes": content(lambda: png(4, 4)[:33] + b"\x7f\xff\xff\xffIDATx"),
    "png_cut_short": content(lambda: encoded("PNG")[:-40]),
    "png_with_a_wrong_sum": content(lambda: encoded("PNG").replace(b"IHDR\0", b"IHDR\1", 1)),
    "palette_without_colours": content(lambda: png(4, 4, bytes(20), colour=3)),
    "jpeg_that_claims_65535_by_65535": content(lambda: jpeg(65535, 65535)),
    "jpeg_cut_short": content(lambda: encoded("JPEG")[:-200]),
    "jpeg_of_one_marker": content(lambda: b"\xff\xd8\xff"),
    "jpeg_whose_exif_points_behind_it": content(lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f") + b"\xff\xd9"),
    "gif_whose_screen_is_65535_wide": content(lambda: gif((65535, 65535), (1, 1))),
    "gif_whose_frame_is_larger_than_its_screen": content(lambda: gif((2, 2), (65535, 65535))),
    "gif_without_frames": content(lambda: b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0) + b";"),
    "webp_that_claims_a_canvas_of_a_hundred_gigapixels": content(lambda: webp(2**24, 2**13)),
    "webp_that_claims_16383_by_16383": content(lambda: webp(16383, 16383)),
    "webp_cut_short": content(lambda: encoded("WEBP")[:-30]),
    "bmp_that_claims_a_billion_rows": content(lambda: bmp(1000, 10**9)),
    "bmp_of_a_negative_width": content(lambda: bmp(-5, 5)),
    "ppm_that_claims_too_many_pixels": content(lambda: b"P6 99999 99999 255\n1"),
    "ppm_with_a_number_of_a_thousand_digits": content(lambda: b"P6 " + b"9" * 1000 + b" 1 255\n1"),
    "pgm_in_plain_text_cut_short": content(lambda: b"P2 9000 9000 255\n1 2 3"),
    "pfm_of_no_numbers": content(lambda: b"Pf 2 2 -1.0\n" + struct.pack("<4f", float("nan"), 0, 1, float("inf"))),
    "tiff_that_claims_two_billion_rows": content(lambda: grey_tiff(8, 2**31 - 1)),
    "tiff_whose_tiles_are_a_hundred_thousand_wide": content(
        lambda: grey_tiff(8, 8, (259, 3, 1, 5), (322, 4, 1, 100000), (323, 4, 1, 100000), (324, 4, 1, 200), (325, 4, 1, 64))
    ),
    "tiff_with_a_billion_strips": content(lambda: grey_tiff(8, 8, (273, 4, 10**9, 200), (279, 4, 10**9, 200))),
    "tiff_whose_directory_is_its_own_next": content(lambda: grey_tiff(9000, 9000, (330, 4, 1, 8))),
    "eps_named_jpg": content(lambda: EPS),
    "svg_with_an_entity": content(lambda: SVG),
    "pdf_named_png": content(lambda: b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch>>>>endobj"),
    "psd_named_png": content(lambda: b"8BPS\0\1" + bytes(20)),
    "icns_with_a_frame_inside": content(lambda: encoded("ICNS", COLOURS.resize((16, 16)))),
    "pointer_of_git_lfs": content(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"),
    "web_page": content(lambda: b"<!DOCTYPE html><html>sign in</html>"),
    "empty": content(bytes),
    "one_byte": content(lambda: b"\x89"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "endless": endless,
    "sparse_terabyte": sparse,
    "link_to_itself": lambda path: path.symlink_to(path.name),
}
