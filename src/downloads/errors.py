"""What goes wrong between us and a Hub, in sentences."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from src.errors import UserError
from src.runtime.files import FULL

CARRIERS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # as the client's version has it


@contextlib.contextmanager
def as_sentences(repository: str, kind: str, patterns: Sequence[str], folder: Path, endpoint: str) -> Iterator[None]:
    """Raise what the client raises as a UserError that says what to do."""
    page = f"{endpoint}/{'datasets/' * (kind == 'dataset')}{repository}"
    files = " and ".join(patterns)
    by_hand = f"or download {files} from {page}/tree/main by hand, and put the files into {folder} as they lie there"
    what = f"the {kind} {repository}"
    try:
        yield
    except UserError:
        raise
    except GatedRepoError as reason:
        raise UserError(f"{what} asks who uses it: accept its terms at {page}, run `hf auth login`, and this again") from reason
    except RepositoryNotFoundError as reason:
        raise UserError(f"there is no {kind} {repository} at {endpoint}, or it is private: check its name at {page}") from reason
    except RevisionNotFoundError as reason:
        raise UserError(f"{what} has no such revision; {page}/commits/main shows those it has") from reason
    except HFValidationError as reason:
        raise UserError(f"{repository!r} is no name of a repository, which is owner/name ({reason})") from reason
    except OfflineModeIsEnabled as reason:
        raise UserError(f"HF_HUB_OFFLINE is set, and {what} is not wholly in {folder}; unset it, {by_hand}") from reason
    except HfHubHTTPError as reason:
        status = reason.response.status_code if reason.response is not None else "an error"
        advice = "try again later: it goes on where it stopped" if status in (408, 429, 500, 502, 503, 504) else f"check {page}"
        raise UserError(f"{endpoint} answered {status} when asked for {what}; {advice}, {by_hand}") from reason
    except Exception as reason:
        if isinstance(reason, OSError) and reason.errno in FULL:
            raise UserError(f"no room left in {folder} ({reason.strerror}); free some: it goes on where it stopped") from reason
        if not is_interruption(reason):
            raise
        said = (str(reason).splitlines() or [type(reason).__name__])[0]
        what = f"{endpoint} cannot be reached, or stopped half-way ({said})"
        raise UserError(f"{what}; try again: it goes on where it stopped; {by_hand}") from reason


def is_interruption(reason: Exception) -> bool:
    """Whether the network failed, which may be better in a moment."""
    carried = type(reason).__module__.split(".")[0] in CARRIERS or isinstance(reason, ConnectionError | TimeoutError)
    cut_short = type(reason) is OSError and reason.errno is None  # the client's own, of a size; the system's have a number
    return cut_short or (carried and not isinstance(reason, HfHubHTTPError | OfflineModeIsEnabled))
