"""Fetch files of a Hugging Face repository into a folder: resumed where they stopped, verified, pinned to one commit."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import hf_hub_url

from src.downloads.client import HubClient
from src.downloads.errors import hub_errors, show
from src.downloads.listing import list_files
from src.downloads.paths import check_paths
from src.downloads.record import DownloadRecord
from src.downloads.transfer import download, draft_size
from src.downloads.verification import ExpectedFile, has_contents
from src.errors import UserError, raise_any
from src.runtime.files import require_space
from src.runtime.progress import SILENT, Progress

LOCK = ".fetching.lock"
LOCK_NOTICE = 3.0  # seconds of waiting for another program before it is said
LOCK_TIMEOUT = 600.0  # seconds of waiting where no listener would show that this waits


def fetch(
    repository: str,
    kind: str,
    patterns: Sequence[str],
    folder: Path,
    revision: str | None = None,
    endpoint: str | None = None,
    progress: Progress = SILENT,
) -> str:
    """Download the files of a repository that match into `folder`, under their paths; return the commit's sha.

    Files that are there and verified are not requested again; if that is all, no connection is made. Files in hidden folders or
    with hidden names (`.gitattributes`) are left out: under such names are what belongs to git and to us, the record of
    this folder among them.

    kind: dataset or model.
    patterns: as `*.parquet`, where `*` crosses folders, too.
    revision: a branch, tag or commit; without one, the commit that this folder was first fetched at, else that of main.
    endpoint: default HF_ENDPOINT, else the Hub.
    progress: listener, in bytes; it also hears that this waits for another program at work in the folder.

    Raise UserError with what went wrong and the way by hand.
    """
    if kind not in ("dataset", "model"):
        raise ValueError(f"kind is dataset or model; got {kind}")
    client = HubClient(endpoint)
    with hub_errors(repository, kind, patterns, folder, client.endpoint), _locked(folder, progress):
        record = DownloadRecord(folder, f"{kind} {repository}")
        if not record.is_of(revision):
            record.start(*list_files(client, repository, kind, revision))
        wanted = _wanted(record, f"the {kind} {repository}", patterns, folder)
        with record.saving():
            missing = _missing(folder, wanted, record)
            require_space(folder, sum(file.size - draft_size(folder / path, file) for path, file in missing.items()))
            progress.plan(sum(file.size for file in missing.values()))
            for path, file in missing.items():
                url = hf_hub_url(repository, path, repo_type=kind, revision=record.commit, endpoint=client.endpoint)
                download(client, url, folder / path, path, file, progress)
                record.verify(path)
    return record.commit


@contextlib.contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Make the folder and hold its lock: a second program would write to the same drafts.

    The system lets go of it when its holder ends, however it ends, so that who waits waits for a program that runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=LOCK_NOTICE)
    except Timeout:
        progress.report(f"waiting for another program that fetches into {folder}", 0)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT if progress is SILENT else -1)
        except Timeout as error:
            raise UserError(
                f"another program holds {folder / LOCK}, and has for {LOCK_TIMEOUT / 60:.0f} minutes: wait until it has fetched "
                "what it fetches, or end it, and run this again; what has come is kept"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _wanted(record: DownloadRecord, what: str, patterns: Sequence[str], folder: Path) -> dict[str, ExpectedFile]:
    """Return the files that match, with their paths below `folder`.

    what: the repository, for messages.

    Raise UserError if there are none, or if one cannot lie there.
    """
    wanted = record.matching(patterns)
    if not wanted:
        raise UserError(
            f"{what} has no file like {' or '.join(patterns)} at {record.commit}; "
            f"it has {', '.join(map(show, list(record.visible)[:5])) or 'none at all'}"
        )
    check_paths(wanted, what, folder)
    return wanted


def _missing(folder: Path, wanted: dict[str, ExpectedFile], record: DownloadRecord) -> dict[str, ExpectedFile]:
    """Return the files to download. Raise UserError for all that are there, are others, and were not fetched by us."""
    missing, problems = {}, []
    for path, file in wanted.items():
        if record.is_verified(path):
            continue
        if (folder / path).is_file() and has_contents(folder / path, file):
            record.verify(path)
        else:
            missing[path] = file
            if (folder / path).exists() and path not in record.verified:
                problems.append(f"{folder / path} is there and is not what is to be fetched to this place; move it away")
    raise_any(problems)
    return missing
