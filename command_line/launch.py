"""Start a script again as several processes that share one run."""

import sys
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from command_line.config import ROOT
from command_line.overrides import typed_overrides
from src.errors import UserError
from src.runtime.distributed import launch
from src.runtime.signals import SIGNALS, StopRequested

SWEEP_OPTIONS = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra.sweep")  # not of the job that is run again


def hydra_arguments() -> list[str]:
    """Return the arguments that start main.py again with this job's configuration."""
    hydra = HydraConfig.get()
    own = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    overrides = [text for text in (*typed_overrides(), *own) if not text.lstrip("+~").startswith(SWEEP_OPTIONS)]
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [*(f"--config-dir={folder}" for folder in folders), f"--config-name={hydra.job.config_name}", *overrides]


def run_processes(script: str, arguments: Sequence[str], size: int) -> None:
    """Run a script in `size` processes of this machine as one group.

    Raise UserError if one fails, StopRequested if they stopped at a signal.
    """
    status = launch([sys.executable, str(ROOT / script), *arguments], size)
    if status < 0:
        raise UserError(f"a process of world_size={size} was killed by signal {-status} (9: often because memory ran out)")
    if status - 128 in SIGNALS:
        raise StopRequested("all processes have stopped", status - 128)
    if status:
        raise UserError([])  # the process has said why
