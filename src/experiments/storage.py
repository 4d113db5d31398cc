"""The bytes that the models of several tasks take together."""

from dataclasses import dataclass

from src.checkpoints.bundles import bundle_size
from src.compact import MASK, Compact
from src.state_dict import StateDict, byte_size, outline


@dataclass(frozen=True)
class Storage:
    """What several tasks' models take.

    tasks: number of them.
    bytes: of all together.
    on_disk: whether these were measured in files, or counted.
    separate: bytes of as many fine-tuned models.
    formula_bits: what the TALL masks paper counts, 32 bits a number and 1 a mask's entry.
    """

    tasks: int
    bytes: int
    on_disk: bool
    separate: int
    formula_bits: int

    @property
    def bits_per_task(self) -> float:
        return 8 * self.bytes / self.tasks

    def sentences(self) -> list[str]:
        """Return the figures for people."""
        where = "on disk" if self.on_disk else "if bundled (output_kind=bundle output=FOLDER)"
        return [
            f"stored {where}: {_mega(self.bytes)}B, {_mega(self.bits_per_task)}bit a task",
            f"by the paper's formula: {_mega(self.formula_bits / 8)}B; {self.tasks} fine-tuned models: {_mega(self.separate)}B",
        ]


def storage_of(compact: Compact, pretrained: StateDict, measured: int | None) -> Storage:
    """Return the storage of a compact form; `measured` bytes on disk, None if it was not written."""
    shapes = compact.outline
    bits = 32 * sum(leaf.numel() for tree in (pretrained, compact.shared) for leaf in outline(tree).values())
    for part in compact.parts.values():
        for name, leaf in outline(part).items():
            bits += shapes[name.removeprefix(MASK)].numel() if name.startswith(MASK) else 32 * leaf.numel()
    counted = bundle_size(compact, pretrained)
    separate = len(compact.parts) * byte_size(pretrained)
    return Storage(len(compact.parts), counted if measured is None else measured, measured is not None, separate, bits)


def _mega(amount: float) -> str:
    return f"{amount / 1e6:,.1f} M"
