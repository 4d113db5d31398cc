"""Fetch files of a Hugging Face repository into a folder: resumed where they stopped, verified, pinned to one commit.

The client library starts an interrupted file anew (since version 1 its drafts are a process's own), so drafts are kept
here: an L/14 encoder is more than a gigabyte, and a folder of twenty is more than an evening.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers, disable_progress_bars, enable_progress_bars

from src.errors import UserError, raise_any
from src.files import require_room, write_json
from src.hub_errors import as_sentences
from src.verification import Expected, is_file, unchanged

RECORD, LOCK, DRAFT = ".fetched.json", ".fetching.lock", ".incomplete"
BAR = "huggingface_hub.http_get"
PAUSE = 5.0  # seconds between two writings of the record, which is long where a repository has many files


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
        record = _Record(folder, f"{kind} {repository}")
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


class _Record:
    """What a folder remembers of a repository: its commit, the files that has, and those that were verified here."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._written = folder, name, time.monotonic()
        try:
            self._all = json.loads((folder / RECORD).read_text())
            own = self._all.get(name, {})
            self.files = {path: Expected(*facts) for path, facts in own.get("files", {}).items()}
            self.verified = dict(own.get("verified", {}))
            self.commit = own.get("commit")
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or spoiled: everything is verified again
            self._all, self.files, self.verified, self.commit = {}, {}, {}, None

    def is_of(self, revision: str | None) -> bool:
        return self.commit is not None and revision in (None, self.commit)

    def start(self, commit: str, files: dict[str, Expected]) -> None:
        self.commit, self.files = commit, files

    def is_verified(self, path: str) -> bool:
        return unchanged(self._folder / path, self.files[path], self.verified.get(path))

    def note(self, path: str) -> None:
        state = (self._folder / path).stat()
        self.verified[path] = [state.st_size, state.st_mtime_ns, self.files[path].digest]
        if time.monotonic() > self._written + PAUSE:
            self._write()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        self._write()  # before any file, so that a killed run has its commit
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        files = {path: [file.size, file.digest] for path, file in self.files.items()}
        own = {"commit": self.commit, "files": files, "verified": self.verified}
        if self._all.get(self._name) != own:
            self._all[self._name] = {**own, "verified": dict(self.verified)}
            write_json(self._folder / RECORD, self._all)
        self._written = time.monotonic()


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


def _missing(folder: Path, wanted: dict[str, Expected], record: _Record) -> dict[str, Expected]:
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
    done = _draft_size(draft)
    report(path, done)
    quiet = are_progress_bars_disabled(BAR)
    disable_progress_bars(BAR)
    try:
        if done < file.size or not draft.exists():
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range of compressed bytes would not fit on
            with draft.open("ab") as handle:
                http_get(url, _Counted(handle, path, report), resume_size=done, headers=headers, expected_size=file.size)
    finally:
        if not quiet:
            enable_progress_bars(BAR)
    if not is_file(draft, file):
        draft.unlink()
        raise UserError(
            f"{path} came with other contents than its repository says it has, and was removed; run this again, and if it "
            f"happens again, tell who runs {url.split('/', 3)[2]}"
        )
    draft.replace(target)


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
