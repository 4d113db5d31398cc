"""Several processes that do one run."""

import sys
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from command_line.config import ROOT
from src.errors import UserError
from src.runtime.distributed import is_member, launch
from src.runtime.signals import SIGNALS, Stopped

NOT_OF_A_JOB = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra.sweep")


def share_out(config: DictConfig) -> bool:
    """Start world_size=N processes that do this run together, if it is not one of them; whether that was done."""
    if (config.world_size or 1) == 1 or is_member():
        return False
    hydra = HydraConfig.get()
    overrides = [text for text in (*hydra.overrides.task, *hydra.overrides.hydra) if not text.startswith(NOT_OF_A_JOB)]
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    flags = [f"--config-dir={folder}" for folder in folders] + [f"--config-name={hydra.job.config_name}"]
    started_together("main.py", [*flags, *overrides], config.world_size)
    return True


def started_together(script: str, arguments: Sequence[str], size: int) -> None:
    """Run a script in `size` processes of this machine as one team.

    Raises UserError if one fails, Stopped if they stopped on request.
    """
    status = launch([sys.executable, str(ROOT / script), *arguments], size)
    if status < 0:
        raise UserError(f"a process of world_size={size} was killed by signal {-status} (9: often for want of memory)")
    if status - 128 in SIGNALS:
        raise Stopped("all processes have stopped", status - 128)
    if status:
        raise UserError(f"a process of world_size={size} ended with status {status}; its error is above")
