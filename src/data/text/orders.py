"""Which templates the rows of a split are put into, and in which order.

An order lists places in the product of rows and templates, whose place `row * templates + template` is row by row.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xxhash


def round_robin(rows: int, templates: int) -> Sequence[int]:
    """Return the order in which row j has template j modulo their number, (rows,): that of evaluation and statistics."""
    numbers = np.arange(rows)
    return numbers * templates + numbers % templates


def one_template(rows: int, templates: int, template: int) -> Sequence[int]:
    """Return the order in which all rows have one template, (rows,)."""
    return range(template, rows * templates, templates)


def capped(rows: int, templates: int, most: int, task: str, seed: int = 0) -> Sequence[int]:
    """Return at most `most` places, an equal share of each template: the first ones have one more where it does not divide.

    Each template's rows are drawn by a generator of its own, which follows from seed, task and template.
    """
    if rows * templates <= most:
        return range(rows * templates)
    drawn = []
    for template in range(templates):
        share = most // templates + (template < most % templates)
        generator = torch.Generator().manual_seed(xxhash.xxh3_64_intdigest(f"{seed}/{task}/{template}".encode()) >> 1)
        drawn.append(torch.randperm(rows, generator=generator)[:share].numpy() * templates + template)
    return np.concatenate(drawn)
