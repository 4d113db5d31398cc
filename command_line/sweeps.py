"""The outputs of a sweep's jobs: no two jobs write to one place."""

import math
from collections.abc import Sequence
from pathlib import Path

import xxhash
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from command_line.composition import alternatives
from command_line.overrides import parse_overrides, plain_or_quoted, shell_word
from src.errors import UserError, raise_any

OUTPUT = "output"


def check_outputs_differ(texts: Sequence[str]) -> None:
    """Raise UserError, before a sweep starts, if the overrides give several of its jobs one output.

    texts: the overrides of the sweep.
    """
    overrides = parse_overrides(texts)[0]
    outputs = [override for override in overrides if override.key_or_group == OUTPUT]
    others = [len(alternatives(override)) or 1 for override in overrides if override.key_or_group != OUTPUT]
    values = [str(value) for override in outputs for value in alternatives(override) if value is not None]
    jobs = math.prod(others)
    raise_any(_sentence(value, jobs) for value in values if jobs > 1 and "${" not in value)


def claim_output(path: Path) -> None:
    """Keep an output of a sweep's job for this job. Raise UserError if another job of the sweep has it."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    claim = Path(hydra.sweep.dir) / "outputs" / xxhash.xxh3_128_hexdigest(str(path.resolve()).encode())
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        with claim.open("x") as file:
            file.write(str(hydra.job.num))
    except FileExistsError as error:
        raise UserError(_sentence(str(path), None)) from error


def _sentence(output: str, jobs: int | None) -> str:
    path = Path(output)
    numbered = plain_or_quoted(str(path.with_name(f"{path.stem}-JOB{path.suffix}")))
    suggestion = shell_word(f"{OUTPUT}={numbered.replace('JOB', '${hydra:job.num}')}")
    whose = f"of {jobs} jobs" if jobs else "of another job"
    return f"output={output} is that {whose} of this sweep, and the last would replace the others; number them: {suggestion}"
