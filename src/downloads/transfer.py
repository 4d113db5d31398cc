"""Download one file: into a draft beside its path, resumed where that stopped, renamed once it is verified.

The client library starts an interrupted file anew (since version 1 its drafts are a process's own), so drafts are kept
here: an L/14 encoder is more than a gigabyte, and a set has twenty.
"""

import glob
import re
import stat
from pathlib import Path

from src.downloads.client import HubClient, Response
from src.downloads.errors import OddAnswer, is_interruption
from src.downloads.patience import LEAST, Patience
from src.downloads.verification import ExpectedFile, has_contents
from src.errors import UserError
from src.runtime.progress import Progress

DRAFT = ".incomplete"
SHORT = 12  # letters of a digest in a draft's name


def download(client: HubClient, url: str, target: Path, path: str, file: ExpectedFile, progress: Progress) -> None:
    """Download a file to `target`, which appears when it is complete and verified; an earlier draft is resumed.

    path: what it is called in its repository.
    progress: listener, in bytes; those of an earlier draft are reported at once.

    Raise UserError if other contents came than expected, OddAnswer if more or fewer bytes would.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target, file)
    for other in target.parent.glob(f".{glob.escape(target.name)}.{'?' * SHORT}{DRAFT}"):
        if other != draft or not _is_resumable(other, file):
            other.unlink()  # of another commit, or no draft of ours: nothing would go on with it
    draft.touch()
    progress.report(path, _size(draft))
    with client.patience() as patience:
        repetition, furthest = 0, _size(draft)
        while _size(draft) < file.size:
            try:
                _continue(client, url, draft, path, file.size, patience, progress)
            except Exception as error:
                if _size(draft) >= furthest + LEAST:
                    repetition, furthest = 0, _size(draft)
                if not is_interruption(error) or not patience.pause(repetition):
                    raise
                repetition += 1
    if not has_contents(draft, file):
        draft.unlink()
        raise UserError(
            f"{path} came with other contents than its repository says it has, and was removed; run this again, and if it "
            f"happens again, tell who runs {client.endpoint}"
        )
    draft.replace(target)


def draft_size(target: Path, file: ExpectedFile) -> int:
    """Return the bytes of a file that an earlier, interrupted download left in its draft."""
    draft = _draft(target, file)
    return _size(draft) if _is_resumable(draft, file) else 0


def _continue(client: HubClient, url: str, draft: Path, path: str, size: int, patience: Patience, progress: Progress) -> None:
    """Append to a draft what is missing from it, to `size` bytes in all.

    Raise OddAnswer if more would come, ConnectionError if less does.
    """
    start = _size(draft)
    with client.get(url, patience, {"Range": f"bytes={start}-"} if start else {}) as response, draft.open("ab") as output:
        if response.status_code == 200:
            _check_range(response, path, 0, size)
            if start:  # the server sends no ranges: all of the file comes again
                output.truncate(0)
                progress.report(path, -start)
            start = 0
        else:
            _check_range(response, path, start, size)
        for piece in response.iter_raw():
            start += len(piece)
            if start > size:
                raise OddAnswer(f"sends more than the {size:,} bytes that it lists of {path}")
            output.write(piece)
            output.flush()  # a run that is killed goes on from there
            patience.count(len(piece))
            progress.report(path, len(piece))
        if start < size:
            raise ConnectionError(f"{path} ended after {start:,} of {size:,} bytes")


def _check_range(response: Response, path: str, start: int, size: int) -> None:
    """Raise OddAnswer unless an answer announces the bytes from `start` to `size`, or nothing."""
    length = response.headers.get("Content-Length", str(size - start))
    if length != str(size - start):
        raise OddAnswer(f"sends {length[:20]} bytes of {path}, where {size - start:,} of {size:,} are missing")
    described = response.headers.get("Content-Range", "")
    if response.status_code == 206 and not re.fullmatch(rf"bytes {start}-{size - 1}/({size}|\*)", described):
        raise OddAnswer(f"sends the range {described[:40]!r} of {path}, where bytes {start}-{size - 1}/{size} are missing")


def _draft(target: Path, file: ExpectedFile) -> Path:
    return target.with_name(f".{target.name}.{file.digest[-SHORT:]}{DRAFT}")


def _is_resumable(draft: Path, file: ExpectedFile) -> bool:
    """Whether a draft is a file, not a link to one elsewhere, and not longer than the file will be."""
    return draft.exists() and stat.S_ISREG(draft.lstat().st_mode) and _size(draft) <= file.size


def _size(draft: Path) -> int:
    return draft.stat().st_size
