"""Where in a fine-tuning an example is seen, and the random numbers that follow from such places."""

import xxhash

Place = tuple[int, int]  # the number of an epoch, and that of an example


def seed_of(*numbers: int) -> int:
    """A seed that follows from these numbers alone."""
    return xxhash.xxh3_64_intdigest(repr(numbers).encode()) >> 1
