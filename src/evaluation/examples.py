"""The scores of single examples as text, for caches and records: a bit each where they are 0 or 1."""

import base64
import contextlib
import zlib

import numpy as np

BITS, FLOATS = "bits", "floats"


def encode(scores: np.ndarray) -> str:
    """Return scores, (n,), each 0 to 1, as text."""
    if np.isin(scores, (0, 1)).all():
        kind, content = BITS, np.packbits(scores.astype(bool)).tobytes()
    else:
        kind, content = FLOATS, zlib.compress(scores.astype("<f4").tobytes())
    return f"{kind} {len(scores)} {base64.b64encode(content).decode()}"


def decode(text: str) -> np.ndarray:
    """Return the scores, (n,), float32. Raise ValueError for any other text."""
    kind, number, content = text.split(" ")
    raw, count = base64.b64decode(content, validate=True), int(number)
    if kind == BITS and len(raw) == -(-count // 8):
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype("f4")
    if kind == FLOATS:
        with contextlib.suppress(zlib.error):
            values = zlib.decompressobj().decompress(raw, 4 * count + 1)  # no more than is needed to see that it is too much
            if len(values) == 4 * count:
                return np.frombuffer(values, "<f4")
    raise ValueError(f"no scores of {number} examples: {text[:40]}")
