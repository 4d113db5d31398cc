"""The errors of the Hub's client, raised as UserErrors that say what to do."""

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
from src.runtime.files import NO_SPACE

HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # one of them, by the client's version


@contextlib.contextmanager
def hub_errors(repository: str, kind: str, patterns: Sequence[str], folder: Path, endpoint: str) -> Iterator[None]:
    """Raise the client's errors in this block as UserErrors that say what to do."""
    page = f"{endpoint}/{'datasets/' * (kind == 'dataset')}{repository}"
    files = " and ".join(patterns)
    by_hand = f"or download {files} from {page}/tree/main by hand, and put the files into {folder} as they lie there"
    what = f"the {kind} {repository}"
    try:
        yield
    except UserError:
        raise
    except GatedRepoError as error:
        raise UserError(f"{what} asks who uses it: accept its terms at {page}, run `hf auth login`, and this again") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"there is no {kind} {repository} at {endpoint}, or it is private: check its name at {page}") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{what} has no such revision; {page}/commits/main shows those it has") from error
    except HFValidationError as error:
        raise UserError(f"{repository!r} is no name of a repository, which is owner/name ({error})") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"HF_HUB_OFFLINE is set, and {what} is not wholly in {folder}; unset it, {by_hand}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        advice = "try again later: it goes on where it stopped" if status in (408, 429, 500, 502, 503, 504) else f"check {page}"
        raise UserError(f"{endpoint} answered {status} when asked for {what}; {advice}, {by_hand}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise UserError(f"no space left in {folder} ({error.strerror}); free some: it goes on where it stopped") from error
        if not is_interruption(error):
            raise
        message = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{endpoint} cannot be reached, or stopped half-way ({message})"
        raise UserError(f"{what}; try again: it goes on where it stopped; {by_hand}") from error


def is_interruption(error: Exception) -> bool:
    """Whether the network failed, so that trying again may succeed."""
    is_network_error = type(error).__module__.split(".")[0] in HTTP_LIBRARIES or isinstance(error, ConnectionError | TimeoutError)
    is_cut_short = type(error) is OSError and error.errno is None  # the client's own, of a size; the system's have a number
    return is_cut_short or (is_network_error and not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled))
