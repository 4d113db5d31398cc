"""The bytes that the models of several tasks take together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.checkpoints.bundles import bundle_size
from src.compact.form import MASK, Compact, kind_and_key
from src.state_dict import StateDict, byte_size, outline


@dataclass(frozen=True)
class Storage:
    """The storage that several tasks' models take.

    tasks: number of tasks.
    bytes: of all models together.
    on_disk: whether `bytes` was measured in files; else it is the sum of the entries' sizes.
    separate: bytes of as many fine-tuned models.
    formula_bits: bits as the TALL masks paper counts them, 32 for a number and 1 for a mask's entry; of codes, their own.
    """

    tasks: int
    bytes: int
    on_disk: bool
    separate: int
    formula_bits: int

    @property
    def bits_per_task(self) -> float:
        """The storage of all models over the number of tasks, in bits."""
        return 8 * self.bytes / self.tasks

    def sentences(self) -> list[str]:
        """Return the storage as lines to print."""
        where = "on disk" if self.on_disk else "if bundled (output_kind=bundle output=FOLDER)"
        return [
            f"stored {where}: {_mega(self.bytes)}B, {_mega(self.bits_per_task)}bit a task",
            f"by the paper's formula: {_mega(self.formula_bits / 8)}B; {self.tasks} fine-tuned models: {_mega(self.separate)}B",
        ]


def storage_of(compact: Compact, pretrained: StateDict, disk_bytes: int | None) -> Storage:
    """Return the storage of a compact form.

    disk_bytes: size of its bundle on disk; None if it was not written.
    """
    bits = 32 * sum(leaf.numel() for leaf in outline(pretrained).values())
    bits += sum(map(_formula_bits, outline(compact.shared).values()))
    for part in compact.parts.values():
        for name, leaf in outline(part).items():
            kind, key = kind_and_key(name)
            bits += compact.outline[key].numel() if kind == MASK else _formula_bits(leaf)
    on_disk, tasks = disk_bytes is not None, len(compact.parts)
    size = disk_bytes if on_disk else bundle_size(compact, pretrained)
    return Storage(tasks, size, on_disk, tasks * byte_size(pretrained), bits)


def _formula_bits(leaf: Tensor) -> int:
    """Return 32 bits a number, 8 a byte of codes."""
    return leaf.numel() * (8 if leaf.dtype == torch.uint8 else 32)


def _mega(amount: float) -> str:
    """Return a number in millions, `1.5 M`, to which the unit is appended."""
    return f"{amount / 1e6:,.1f} M"
