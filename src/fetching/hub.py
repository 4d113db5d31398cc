"""Fetch files of a Hugging Face repository into a folder: resumed where they stopped, verified, pinned to one commit.

The client library starts an interrupted file anew (since version 1 its drafts are a process's own), so drafts are kept
here: an L/14 encoder is more than a gigabyte, and a folder of twenty is more than an evening.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers, disable_progress_bars, enable_progress_bars

from src.errors import UserError, raise_any
from src.fetching.errors import as_sentences, is_interruption
from src.fetching.record import Record
from src.fetching.verification import Expected, is_file
from src.files import require_room

LOCK, DRAFT = ".fetching.lock", ".incomplete"
BAR = "huggingface_hub.http_get"


def fetch(
    repository: str,
    kind: str,
    patterns: Sequence[str],
    folder: Path,
    revision: str | None = None,
    endpoint: str | None = None,
    plan: Callable[[int], None] | None = None,
    report: Callable[[str, int], None] | None = None,
) -> str:
    """Have the files of a repository that match in `folder`, under the paths they have there; returns the commit's sha.

    kind: dataset or model; patterns: as `*.parquet`, where `*` crosses folders too; revision: a branch, tag or commit;
    without one, the commit that this folder was first fetched at, else that of main. endpoint: default HF_ENDPOINT, else
    the Hub. plan, report: told how many bytes are to come, and the file and the number of those that have come.

    What is there and verified is not asked for again; if that is all, no connection is made. Raises UserError.
    """
    if kind not in ("dataset", "model"):
        raise ValueError(f"kind is dataset or model; got {kind}")
    folder.mkdir(parents=True, exist_ok=True)
    api = HfApi(endpoint=endpoint)
    with FileLock(folder / LOCK), as_sentences(repository, kind, patterns, folder, api.endpoint):
        record = Record(folder, f"{kind} {repository}")
        if not record.is_of(revision):
            record.start(*_listed(api, repository, kind, revision))
        wanted = {path: file for path, file in record.files.items() if any(fnmatchcase(path, pattern) for pattern in patterns)}
        if not wanted:
            raise UserError(
                f"the {kind} {repository} has no file like {' or '.join(patterns)} at {record.commit}; "
                f"it has {', '.join(list(record.files)[:5]) or 'none at all'}"
            )
        with record.kept():
            missing = _missing(folder, wanted, record)
            require_room(folder, sum(file.size - _draft_size(_draft(folder / path, file)) for path, file in missing.items()))
            (plan or _ignore)(sum(file.size for file in missing.values()))
            for path, file in missing.items():
                url = hf_hub_url(repository, path, repo_type=kind, revision=record.commit, endpoint=api.endpoint)
                _download(url, folder / path, path, file, report or _ignore)
                record.note(path)
    return record.commit


def _listed(api: HfApi, repository: str, kind: str, revision: str | None) -> tuple[str, dict[str, Expected]]:
    """The commit of a revision, and its files."""
    commit = api.repo_info(repository, repo_type=kind, revision=revision).sha
    tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type=kind)
    files = {
        entry.path: Expected(entry.size, f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}")
        for entry in tree
        if isinstance(entry, RepoFile)
    }
    outside = [path for path in files if ".." in PurePosixPath(path).parts or path.startswith("/") or "\\" in path]
    raise_any(f"{repository} names a file outside its folder, {path!r}; nothing was fetched" for path in outside)
    return commit, files


def _missing(folder: Path, wanted: dict[str, Expected], record: Record) -> dict[str, Expected]:
    """The files to download. Raises UserError for all that are there, are others, and were not fetched by us."""
    missing, strangers = {}, []
    for path, file in wanted.items():
        if record.is_verified(path):
            continue
        if (folder / path).is_file() and is_file(folder / path, file):
            record.note(path)
        else:
            missing[path] = file
            if (folder / path).exists() and path not in record.verified:
                strangers.append(f"{folder / path} is there and is not what is to be fetched to this place; move it away")
    raise_any(strangers)
    return missing


def _download(url: str, target: Path, path: str, file: Expected, report: Callable[[str, int], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target, file)
    report(path, _draft_size(draft))
    while not draft.exists() or _draft_size(draft) < file.size:
        before = _draft_size(draft)
        try:
            _continue(url, draft, path, file.size, report)
        except Exception as reason:
            if not is_interruption(reason) or _draft_size(draft) == before:
                raise
    if not is_file(draft, file):
        draft.unlink()
        raise UserError(
            f"{path} came with other contents than its repository says it has, and was removed; run this again, and if it "
            f"happens again, tell who runs {url.split('/', 3)[2]}"
        )
    draft.replace(target)


def _continue(url: str, draft: Path, path: str, size: int, report: Callable[[str, int], None]) -> None:
    quiet = are_progress_bars_disabled(BAR)
    disable_progress_bars(BAR)  # the caller draws one of all files
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range of compressed bytes would not fit on
    try:
        with draft.open("ab") as handle:
            http_get(url, _Counted(handle, path, report), resume_size=_draft_size(draft), headers=headers, expected_size=size)
    finally:
        if not quiet:
            enable_progress_bars(BAR)


class _Counted:
    """A file that reports what is written to it."""

    def __init__(self, file: BinaryIO, path: str, report: Callable[[str, int], None]):
        self._file, self._path, self._report = file, path, report

    def write(self, content: bytes) -> int:
        self._report(self._path, len(content))
        return self._file.write(content)

    def truncate(self) -> int:
        self._report(self._path, self._file.tell() - self._file.seek(0, 2))
        return self._file.truncate(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def _draft(target: Path, file: Expected) -> Path:
    return target.with_name(f".{target.name}.{file.digest[-12:]}{DRAFT}")


def _draft_size(draft: Path) -> int:
    return draft.stat().st_size if draft.exists() else 0


def _ignore(*_: object) -> None:
    pass
