"""The files of a T5: in a folder, beside a single weight file, or of a repository on the Hub, fetched first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.checkpoints.shards import INDEX
from src.downloads.hub import fetch
from src.downloads.record import DownloadRecord
from src.errors import UserError, raise_any
from src.runtime.progress import SILENT, Progress

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS = (
    ("model.safetensors", "model-*.safetensors", f"model.safetensors{INDEX}"),
    ("pytorch_model.bin", "pytorch_model-*.bin", f"pytorch_model.bin{INDEX}"),
)  # of a repository, the preferred ones first
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    config: json in the form of transformers' config.json.
    tokenizer: json in the form of the library tokenizers.
    weights: a file, or a folder of them.
    """

    config: Path
    tokenizer: Path
    weights: Path


def find_model(
    source: str,
    folder: Path,
    revision: str | None = None,
    tokenizer: str | None = None,
    has_weights: bool = True,
    progress: Progress = SILENT,
) -> ModelFiles:
    """Return the files of the model in a folder, in a weight file or in a repository `OWNER/NAME` of the Hub.

    Beside a weight file X.safetensors lie X.json and X-tokenizer.json, or files with the names of a folder's.

    folder: where a repository is fetched to.
    revision: of the repository; None for the one it was first fetched at, else its newest.
    tokenizer: a file in place of the model's own.
    has_weights: whether its weights are needed.

    Raise UserError if there is no such model, or with all the files that it lacks.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if not REPOSITORY.fullmatch(source):
            raise UserError(f"model.pretrained={source} is no file or folder here, and no repository OWNER/NAME of the Hub")
        path = _fetched(source, folder, revision, has_weights, tokenizer is None, progress)
    beside = path if path.is_dir() else path.parent
    own_config, own_tokenizer = path.with_suffix(".json"), path.with_name(f"{path.stem}-tokenizer.json")
    files = ModelFiles(
        own_config if path.is_file() and own_config.is_file() else beside / CONFIG,
        Path(tokenizer).expanduser() if tokenizer else own_tokenizer if own_tokenizer.is_file() else beside / TOKENIZER,
        path,
    )
    advice = {
        files.config: "copy the model's configuration to there",
        files.tokenizer: "give model.family.tokenizer=FILE; T5, T5 v1.1 and Flan-T5 have one vocabulary, so google-t5/t5-small's "
        "will do for all of them",
    }
    raise_any(f"{source} has no {file.name} ({file}); {way}" for file, way in advice.items() if not file.is_file())
    return files


def _fetched(
    repository: str, folder: Path, revision: str | None, has_weights: bool, has_tokenizer: bool, progress: Progress
) -> Path:
    """Return the folder of a repository's files, fetched: weights as safetensors if there are any, else pickled ones."""

    def get(patterns: Sequence[str]) -> None:
        fetch(repository, "model", patterns, folder, revision, progress=progress)

    get((CONFIG, TOKENIZER)[: 1 + has_tokenizer])
    if has_weights:
        record = DownloadRecord(folder, f"model {repository}")
        get(next((patterns for patterns in WEIGHTS if record.matching(patterns)), WEIGHTS[0]))
    return folder
