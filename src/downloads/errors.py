"""What goes wrong with a Hub, and the UserErrors that it is raised as, which say how to go on."""

import contextlib
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from src.errors import UserError
from src.runtime.files import NO_SPACE

HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # one of them, by the client's version
BUSY = (408, 429, 500, 502, 503, 504)  # statuses of a server that may answer later


class OddAnswer(Exception):
    """An answer that no Hub gives. Its message goes on where a sentence began with the endpoint."""


class Refusal(Exception):
    """An answer that is an error.

    status: of HTTP.
    code: the Hub's own word for what is wrong; None where it has none.
    wait: seconds after which it asks to be asked again.
    """

    def __init__(self, status: int, code: str | None, wait: float):
        super().__init__(f"status {status}")
        self.status, self.code, self.wait = status, code, wait


def show(value: object) -> str:
    """Return what a server sent, for a sentence: escaped, and shortened where it is long."""
    display = reprlib.Repr()
    display.maxstring = display.maxother = 80
    return display.repr(value)


@contextlib.contextmanager
def hub_errors(repository: str, kind: str, patterns: Sequence[str], folder: Path, endpoint: str) -> Iterator[None]:
    """Raise the errors of a download in this block as UserErrors that say what to do."""
    page = f"{endpoint}/{'datasets/' * (kind == 'dataset')}{repository}"
    files = " and ".join(patterns)
    by_hand = f"or download {files} from {page}/tree/main by hand, and put the files into {folder} as they lie there"
    what = f"the {kind} {repository}"
    try:
        yield
    except UserError:
        raise
    except Refusal as error:
        raise UserError(_sentence(error, what, page, endpoint, by_hand)) from error
    except OddAnswer as error:
        raise UserError(
            f"{endpoint} {error} (asked for {what}); run this again, set HF_ENDPOINT to another address of the Hub, {by_hand}"
        ) from error
    except HFValidationError as error:
        raise UserError(f"{show(repository)} is no name of a repository, which is owner/name") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"HF_HUB_OFFLINE is set, and {what} is not wholly in {folder}; unset it, {by_hand}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise UserError(f"no space left in {folder} ({error.strerror}); free some: it goes on where it stopped") from error
        if is_interruption(error):
            message = show((str(error).splitlines() or [type(error).__name__])[0])[1:-1]
            raise UserError(
                f"{endpoint} cannot be reached, or stopped half-way ({message}); try again: it goes on where it stopped; set "
                f"HF_ENDPOINT to another address of the Hub, {by_hand}"
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"{error.filename or folder} cannot be used for a download ({error.strerror}); move it away, or see to its rights"
            ) from error
        raise


def is_interruption(error: Exception) -> bool:
    """Whether the network failed, so that trying again may succeed."""
    return type(error).__module__.split(".")[0] in HTTP_LIBRARIES or isinstance(error, ConnectionError | TimeoutError)


def _sentence(error: Refusal, what: str, page: str, endpoint: str, by_hand: str) -> str:
    """Return the sentence that says why a server refuses, and what to do."""
    if error.code == "GatedRepo":
        return f"{what} asks who uses it: accept its terms at {page}, run `hf auth login`, and this again"
    if error.code == "RepoNotFound" or error.status == 401:
        no_such = f"there is no {what.removeprefix('the ')} at {endpoint}, or it is private"
        return f"{no_such}: check its name at {page}; for a private one, set HF_TOKEN or run `hf auth login`"
    if error.code == "RevisionNotFound":
        return f"{what} has no such revision; {page}/commits/main shows those it has"
    wait = f" and asks to wait {error.wait:,.0f} s" if error.wait else ""
    advice = "try again later: it goes on where it stopped" if error.status in BUSY else f"check {page}"
    return f"{endpoint} answered {error.status}{wait} when asked for {what}; {advice}, {by_hand}"
