"""Download one file: into a draft beside its path, resumed where that stopped, renamed once it is verified.

The client library starts an interrupted file anew (since version 1 its drafts are a process's own), so drafts are kept
here: an L/14 encoder is more than a gigabyte, and a set has twenty.
"""

import glob
from pathlib import Path
from typing import BinaryIO

from huggingface_hub.file_download import http_get
from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers, disable_progress_bars, enable_progress_bars

from src.downloads.errors import is_interruption
from src.downloads.verification import ExpectedFile, has_contents
from src.errors import UserError
from src.runtime.progress import Progress

DRAFT = ".incomplete"
SHORT = 12  # letters of a digest in a draft's name
BAR = "huggingface_hub.http_get"


def download(url: str, target: Path, path: str, file: ExpectedFile, progress: Progress) -> None:
    """Download a file to `target`, which appears when it is complete and verified; an earlier draft is resumed.

    path: what it is called in its repository.
    progress: listener, in bytes; those of an earlier draft are reported at once.

    Raise UserError if other contents came than expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target, file)
    for other in target.parent.glob(f".{glob.escape(target.name)}.{'?' * SHORT}{DRAFT}"):
        if other != draft:
            other.unlink()  # of another commit, which nothing would go on with
    progress.report(path, _size(draft))
    while not draft.exists() or _size(draft) < file.size:
        before = _size(draft)
        try:
            _continue(url, draft, path, file.size, progress)
        except Exception as error:
            if not is_interruption(error) or _size(draft) == before:
                raise
    if not has_contents(draft, file):
        draft.unlink()
        raise UserError(
            f"{path} came with other contents than its repository says it has, and was removed; run this again, and if it "
            f"happens again, tell who runs {url.split('/', 3)[2]}"
        )
    draft.replace(target)


def draft_size(target: Path, file: ExpectedFile) -> int:
    """Return the bytes of a file that an earlier, interrupted download left in its draft."""
    return _size(_draft(target, file))


def _continue(url: str, draft: Path, path: str, size: int, progress: Progress) -> None:
    is_quiet = are_progress_bars_disabled(BAR)
    disable_progress_bars(BAR)  # the caller draws one of all files
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range of compressed bytes would not fit on
    try:
        with draft.open("ab") as file:
            http_get(url, _ReportingFile(file, path, progress), resume_size=_size(draft), headers=headers, expected_size=size)
    finally:
        if not is_quiet:
            enable_progress_bars(BAR)


class _ReportingFile:
    """A file that reports what is written to it."""

    def __init__(self, file: BinaryIO, path: str, progress: Progress):
        self._file, self._path, self._progress = file, path, progress

    def write(self, content: bytes) -> int:
        self._progress.report(self._path, len(content))
        return self._file.write(content)

    def truncate(self) -> int:
        self._progress.report(self._path, self._file.tell() - self._file.seek(0, 2))
        return self._file.truncate(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def _draft(target: Path, file: ExpectedFile) -> Path:
    return target.with_name(f".{target.name}.{file.digest[-SHORT:]}{DRAFT}")


def _size(draft: Path) -> int:
    return draft.stat().st_size if draft.exists() else 0
