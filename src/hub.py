"""Files of repositories on the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError


def fetch(repository: str, kind: str, patterns: Sequence[str], folder: Path, revision: str | None = None) -> str:
    """Download the files that match `patterns` into `folder`, under their repository paths; returns the commit."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
        snapshot_download(repository, repo_type=kind, revision=commit, allow_patterns=list(patterns), local_dir=folder)
    except Exception as reason:
        raise UserError(f"{repository} could not be fetched from the Hub ({str(reason).splitlines()[0]}); try again") from reason
    return commit
