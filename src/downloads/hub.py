"""Fetch files of a Hugging Face repository into a folder: resumed where they stopped, verified, pinned to one commit."""

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from src.downloads.errors import hub_errors
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
    folder.mkdir(parents=True, exist_ok=True)
    api = HfApi(endpoint=endpoint)
    with _locked(folder, progress), hub_errors(repository, kind, patterns, folder, api.endpoint):
        record = DownloadRecord(folder, f"{kind} {repository}")
        if not record.is_of(revision):
            record.start(*_listing(api, repository, kind, revision))
        visible = {path: file for path, file in record.files.items() if not any(part[0] == "." for part in path.split("/"))}
        wanted = {path: file for path, file in visible.items() if any(fnmatchcase(path, pattern) for pattern in patterns)}
        if not wanted:
            raise UserError(
                f"the {kind} {repository} has no file like {' or '.join(patterns)} at {record.commit}; "
                f"it has {', '.join(list(visible)[:5]) or 'none at all'}"
            )
        with record.saving():
            missing = _missing(folder, wanted, record)
            require_space(folder, sum(file.size - draft_size(folder / path, file) for path, file in missing.items()))
            progress.plan(sum(file.size for file in missing.values()))
            for path, file in missing.items():
                url = hf_hub_url(repository, path, repo_type=kind, revision=record.commit, endpoint=api.endpoint)
                download(url, folder / path, path, file, progress)
                record.verify(path)
    return record.commit


@contextlib.contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock: a second program would write to the same drafts.

    The system lets go of it when its holder ends, however it ends, so that who waits waits for a program that runs.
    """
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


def _listing(api: HfApi, repository: str, kind: str, revision: str | None) -> tuple[str, dict[str, ExpectedFile]]:
    """Return the commit of a revision, and its files. Raise UserError if one would lie outside the folder."""
    commit = api.repo_info(repository, repo_type=kind, revision=revision).sha
    tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type=kind)
    files = {
        entry.path: ExpectedFile(entry.size, f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}")
        for entry in tree
        if isinstance(entry, RepoFile)
    }
    outside = [path for path in files if ".." in PurePosixPath(path).parts or path.startswith("/") or "\\" in path]
    raise_any(f"{repository} names a file outside its folder, {path!r}; nothing was fetched" for path in outside)
    return commit, files


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
