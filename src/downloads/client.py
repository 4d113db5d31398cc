"""GET requests to a Hub: its token goes to no other host, a busy server is asked again, and every wait has an end."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import close_session, constants, get_session
from huggingface_hub.utils import build_hf_headers

from src.downloads.errors import BUSY, OddAnswer, Refusal, show
from src.downloads.patience import CONNECTING, SILENCE, Patience
from src.errors import UserError

REDIRECTS = 10
LARGEST_REDIRECT = 2**16  # bytes of a redirect's body that are read, so that its connection serves the next request, too
SCHEMES = ("https", "http")

Response = Any  # httpx's or httpx2's, by the version of huggingface_hub
Url = Any


class HubClient:
    """The client of one endpoint. Raise UserError if its address or the token is none.

    endpoint: URL; default HF_ENDPOINT, else the Hub's.
    """

    def __init__(self, endpoint: str | None = None):
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        url = _parsed(self.endpoint)
        if url is None:
            raise UserError(f"HF_ENDPOINT is {show(self.endpoint)}, and no http address; set it to one, or unset it for the Hub")
        self._origin = _origin(url)
        self._headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # what is compressed has no announced size
        self._token = self._headers.pop("authorization", None)
        if self._token and not (self._token.isascii() and self._token.isprintable()):
            raise UserError("the token of the Hub has letters that no token has; set HF_TOKEN anew, or run `hf auth login`")

    @contextlib.contextmanager
    def patience(self) -> Iterator[Patience]:
        """Yield the patience with the requests of a block, which end when it ends."""
        patience = Patience()
        with patience.enforced(close_session):
            yield patience

    @contextlib.contextmanager
    def get(self, url: str, patience: Patience, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        """Yield the answer to a request, of status 200 or 206; its body is not read yet.

        Raise Refusal of another status, OddAnswer if the answer is none that a Hub gives.
        """
        repetition = 0
        while (response := self._follow(url, headers or {})).status_code not in (200, 206):
            response.close()
            wait = _retry_after(response.headers.get("Retry-After", ""))
            if response.status_code not in BUSY or not patience.pause(repetition, wait):
                raise Refusal(response.status_code, response.headers.get("X-Error-Code"), wait)
            repetition += 1
        with contextlib.closing(response):
            if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
                raise OddAnswer(f"sends data of the encoding {show(encoding)}, where plain data are asked for")
            yield response

    def _follow(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return the answer to a request, wherever it is redirected to."""
        response = self._send(url, headers)
        for _ in range(REDIRECTS):
            if not response.has_redirect_location:
                return response
            _finish(response)
            response = self._send(_redirection(response), headers)
        response.close()
        raise OddAnswer(f"redirects {REDIRECTS} times and more")

    def _send(self, url: str | Url, headers: Mapping[str, str]) -> Response:
        session = get_session()
        timeout = (CONNECTING, SILENCE, SILENCE, SILENCE)
        request = session.build_request("GET", url, headers={**self._headers, **headers}, timeout=timeout)
        if self._token and _origin(request.url) == self._origin:
            request.headers["Authorization"] = self._token
        return session.send(request, stream=True, follow_redirects=False)


def _parsed(url: str | Url) -> Url | None:
    """Return a URL as the client library understands it; None if it is none of SCHEMES, or no URL."""
    try:
        parsed = get_session().build_request("GET", url).url
    except Exception:  # the library's InvalidURL, which has no name here, and what its parser lets through
        return None
    return parsed if parsed.scheme in SCHEMES and parsed.host else None


def _origin(url: Url) -> tuple[str, str, int | None]:
    """Return scheme, host and port: what a token belongs to."""
    return url.scheme, url.host, url.port


def _redirection(response: Response) -> Url:
    """Return the URL that an answer redirects to. Raise OddAnswer if it is none, or less safe."""
    location = response.headers["Location"]
    try:
        url = _parsed(response.url.join(location))
    except Exception as error:  # as above
        raise OddAnswer(f"redirects to {show(location)}, which is no address") from error
    if url is None or SCHEMES.index(url.scheme) > SCHEMES.index(response.url.scheme):
        raise OddAnswer(f"redirects to {show(location)}, from where nothing can be fetched safely")
    return url


def _finish(response: Response) -> None:
    """Read the body of an answer that is of no use, unless it is long, and close it."""
    with contextlib.closing(response):
        size = 0
        for piece in response.iter_raw():
            size += len(piece)
            if size > LARGEST_REDIRECT:
                break


def _retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header asks for, in either of its forms; 0 if it asks for nothing."""
    if re.fullmatch("[0-9]+", text):
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
