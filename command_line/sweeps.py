"""Checks of a sweep: it has jobs, and no two of them write to one place."""

import math
from collections.abc import Sequence
from pathlib import Path

import xxhash
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from command_line.composition import alternatives, empty_sweeps, read_overrides
from command_line.overrides import plain_or_quoted, shell_word
from src.errors import UserError, raise_any
from src.runtime.files import expand_path

OUTPUT = "output"


def check_sweep(texts: Sequence[str], name: str = "config", folders: Sequence[str] = ()) -> None:
    """Raise UserError, before a sweep starts, if its overrides give an option no value, or several of its jobs one output.

    texts: the overrides of the sweep.
    name, folders: as in `composition_problems`.
    """
    with read_overrides(texts, name, folders) as (overrides, _, groups):
        raise_any(empty_sweeps(overrides, groups))
        outputs = [override for override in overrides if override.key_or_group == OUTPUT]
        others = [len(alternatives(override)) or 1 for override in overrides if override.key_or_group != OUTPUT]
        values = [str(value) for override in outputs for value in alternatives(override) if value is not None]
    jobs = math.prod(others)
    raise_any(_sentence(value, jobs) for value in values if jobs > 1 and "${" not in value)


def claim_output(output: object) -> None:
    """Keep an output of a sweep's job, if it has one, for this job. Raise UserError if another job of the sweep has it."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not output:
        return
    path = expand_path(output)
    claim = Path(hydra.sweep.dir) / "outputs" / xxhash.xxh3_128_hexdigest(str(path.resolve()).encode())
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        with claim.open("x") as file:
            file.write(str(hydra.job.num))
    except FileExistsError as error:
        if claim.read_text() != str(hydra.job.num):  # a launcher may start a job again
            raise UserError(_sentence(str(path), None)) from error


def _sentence(output: str, jobs: int | None) -> str:
    path = Path(output) if Path(output).name else Path(output, "merged")
    number = "N" * (len(output) + 1)  # stands for the job's number in what is quoted, and is no part of it
    numbered = plain_or_quoted(str(path.with_name(f"{path.stem}-{number}{path.suffix}")))
    suggestion = shell_word(f"{OUTPUT}={numbered.replace(number, '${hydra:job.num}')}")
    whose = f"{jobs} jobs" if jobs else "another job"
    return f"output={output} would be written by {whose} of this sweep, too; give each its own: {suggestion}"
