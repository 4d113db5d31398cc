"""Configuration files: each is checked before Hydra reads it, for its reader writes aliases out and recurses without bound."""

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydraFiles
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from src.runtime.untrusted import read_yaml

OURS = Path(__file__).parent.parent / "config"


class FileConfigSource(HydraFiles):
    """Hydra's source of configuration files in folders. It has Hydra's name, which the registry goes by."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.exists() and not path.is_relative_to(OURS):
            read_yaml(path)
        return super().load_config(config_path)


def check_config_files() -> None:
    """Let Hydra raise UserError for configuration files that are too large, too deep, or no yaml."""
    SourcesRegistry.instance().types["file"] = FileConfigSource
