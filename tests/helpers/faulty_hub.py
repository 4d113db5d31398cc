"""A Hub and a second host, which answer one request as no Hub should: a table of faults, by name."""

import contextlib
import gzip
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread

from tests.helpers.hub_server import git_name, sha256

COMMIT = "c" * 40
CONTENT = bytes(range(256)) * 800
GIT, SHA256 = git_name(CONTENT), sha256(CONTENT)
HALF = len(CONTENT) // 2
PATH = "a/big.pt"
SLOW = 0.02  # seconds between two bytes of a slow answer


@dataclass(frozen=True)
class Request:
    """A request to one of the hosts.

    route: info, tree, file, or elsewhere at the second host.
    number: of requests to this route, from 0.
    target: path and query.
    headers: by their names in small letters.
    here: address of the Hub; there: of the second host.
    stopped: set when the server stops.
    """

    route: str
    number: int
    target: str
    headers: dict[str, str]
    here: str
    there: str
    stopped: Event


Answer = Callable[[Request], bytes | Iterable[bytes]]


@dataclass(frozen=True)
class Fault:
    """An answer to a route, and words of the sentence that it leads to; none where the file comes all the same."""

    route: str
    answer: Answer
    words: str = ""


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer with its length, unless the headers have another; `_` stands for `-` in their names."""
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): text for name, text in headers.items()}}
    head = "".join(f"{name}: {text}\r\n" for name, text in fields.items() if text)
    return f"HTTP/1.1 {status} As it is\r\n{head}Connection: close\r\n\r\n".encode("latin-1") + body


def entry(path: object = PATH, **changed: object) -> dict[str, object]:
    """Return what a Hub lists of a file with CONTENT."""
    return {
        "type": "file",
        "oid": GIT,
        "size": len(CONTENT),
        "path": path,
        "lfs": {"oid": SHA256, "size": len(CONTENT)},
        **changed,
    }


def page(*entries: object, link: str = "") -> bytes:
    return http(200, json.dumps(entries).encode(), **({"Link": f'<{link}>; rel="next"'} if link else {}))


def honest(request: Request) -> bytes:
    """Return the answer of a Hub with one file."""
    if request.route == "info":
        return http(200, json.dumps({"sha": COMMIT}).encode())
    if request.route == "tree":
        return page(entry())
    start = int(request.headers.get("range", "bytes=0-").split("=")[1][:-1])
    described = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    return http(206 if start else 200, CONTENT[start:], **described)


def resumed(answer: Answer) -> Answer:
    """Return half of the file first, and then what `answer` returns."""
    return lambda request: answer(request) if request.number else http(200, CONTENT[:HALF], Content_Length=str(len(CONTENT)))


def once(answer: Answer) -> Answer:
    """Return what `answer` returns first, and then what a Hub does."""
    return lambda request: honest(request) if request.number else answer(request)


def drip(pieces: Iterable[bytes]) -> Answer:
    """Return an answer whose pieces come one by one."""

    def answer(request: Request) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            time.sleep(SLOW)

    return answer


def silent(request: Request) -> Iterator[bytes]:
    request.stopped.wait(60)
    yield b""


def endless(head: bytes, piece: bytes) -> Answer:
    """Return `head`, and `piece` again and again."""

    def answer(request: Request) -> Iterator[bytes]:
        yield head
        while not request.stopped.is_set():
            yield piece

    return answer


def single(text: bytes) -> list[bytes]:
    return [text[place : place + 1] for place in range(len(text))]


def listing(*entries: object) -> Answer:
    return lambda _: page(*entries)


def always(answer: bytes) -> Answer:
    return lambda _: answer


def redirect(location: str, status: int = 302) -> Answer:
    return lambda request: http(status, Location=location.format(here=request.here, there=request.there, target=request.target))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + bytes(2**16) + b"\r\n"
BOMB = gzip.compress(bytes(2**24))
ODD_PATHS = {
    "above": ("../escaped.pt", "outside its folder"),
    "above, within": ("a/../../escaped.pt", "outside its folder"),
    "absolute": ("/tmp/escaped.pt", "outside its folder"),
    "with backslashes": ("a\\..\\escaped.pt", "outside its folder"),
    "with NUL": ("a/b\0.pt", "cannot be written"),
    "with a newline": ("a/b\n.pt", "cannot be written"),
    "with half a letter": ("a/\ud800.pt", "cannot be written"),
    "with an escape": ("a/\x1b[2J.pt", "cannot be written"),
    "of a name too long": ("a/" + "b" * 300 + ".pt", "too long"),
    "of too many folders": ("a/" * 600 + "b.pt", "too long"),
    "with an empty name": ("a//b.pt", "no usual form"),
    "with a dot": ("a/./b.pt", "no usual form"),
    "of a number": (5, "lists no file's path"),
    "of a list": ([PATH], "lists no file's path"),
    "empty": ("", "no usual form"),
}
ODD_SIZES = {"negative": -5, "huge": 10**30, "of text": "many", "of none": None, "of a fraction": 1.5, "of a truth": True}

FAULTS = {
    # where a token must not go
    "a listing elsewhere": Fault("tree", redirect("{there}/tree")),
    "a commit elsewhere": Fault("info", redirect("{there}/info", 307)),
    "a file elsewhere": Fault("file", redirect("{there}/file")),
    "a file there and back": Fault("file", once(redirect("{there}/back{target}"))),
    "a host that looks like the Hub's": Fault("file", lambda r: http(302, Location=f"{r.here}@{r.there[7:]}/file")),
    "a next page elsewhere": Fault("tree", lambda r: page(entry() if r.number else entry("b"), link=f"{r.there}/tree?cursor=1" * (not r.number))),
    "a next page of another scheme": Fault("tree", lambda r: page(entry(), link="file:///etc/passwd"), "as the next page"),
    "a next page that is no address": Fault("tree", lambda r: page(entry(), link="http://[/?"), "as the next page"),
    # redirects that lead nowhere
    "a redirect to a file": Fault("file", redirect("file:///etc/passwd"), "redirects to 'file:"),
    "a redirect to data": Fault("tree", redirect("data:application/json,[]"), "redirects to 'data:"),
    "a redirect to no port": Fault("file", redirect("http://127.0.0.1:port/"), "redirects to"),
    "a redirect to no host": Fault("file", redirect("http:///file"), "redirects 10 times"),
    "a redirect to odd letters": Fault("info", redirect("http://\x80\xff/"), "redirects to"),
    "a redirect to itself": Fault("file", redirect("{here}{target}"), "redirects 10 times"),
    "a redirect without address": Fault("tree", always(http(302)), "answered 302"),
    # listings
    "pages without end": Fault("tree", lambda r: page(entry(f"a/{r.number}"), link=f"{r.here}/tree?cursor={r.number}"), "more than 20 pages"),
    "the same page again": Fault("tree", lambda r: page(entry(), link=f"{r.here}/tree?cursor=1"), "lists 'a/big.pt' twice"),
    "empty pages without end": Fault("tree", lambda r: page(link=f"{r.here}/tree?cursor=1"), "more than 20 pages"),
    "millions of files": Fault("tree", lambda r: page(*(entry(f"a/{n}") for n in range(5000))), "in more than"),
    "pages of too much in all": Fault("tree", lambda r: page(*(entry(f"a/{r.number}/{n}") for n in range(700)), link=f"{r.here}/t?c={r.number}"), "in more than"),
    "a listing without end": Fault("tree", endless(CHUNKED, CHUNK), "in more than"),
    "a page of HTML": Fault("tree", always(http(200, b"<html>Please log in</html>")), "no JSON"),
    "no listing": Fault("tree", always(http(200)), "no JSON"),
    "half a listing": Fault("tree", always(http(200, b'[{"type": "file", "pa')), "no JSON"),
    "a listing that is cut": Fault("tree", always(http(200, b"[]", Content_Length="500")), "stopped half-way"),
    "a deep listing": Fault("tree", always(http(200, b"[" * 100_000)), "no JSON"),
    "a number of thousands of digits": Fault("tree", always(http(200, b"[" + b"9" * 5000 + b"]")), "no JSON"),
    "a listing in bytes of no text": Fault("tree", always(http(200, b"\xff\xfe\x00")), "no JSON"),
    "a listing that is an object": Fault("tree", always(http(200, b'{"error": "no"}')), "lists no files but"),
    "entries that are none": Fault("tree", listing(None, 5, "a"), "lists no file's path"),
    "a file without a hash": Fault("tree", listing({"type": "file", "path": PATH, "size": 5}), "lists no file's path"),
    "a hash that is a path": Fault("tree", listing(entry(lfs={"oid": "../../../../escaped"})), "lists no file's path"),
    "a hash that is a list": Fault("tree", listing(entry(lfs=["oid"])), "lists no file's path"),
    "a file twice": Fault("tree", listing(entry(), entry()), "twice"),
    "a file that is a folder": Fault("tree", listing(entry("a/b.pt"), entry("a/b.pt/c.pt")), "both a file and a folder 'a/b.pt'"),
    "no files": Fault("tree", listing(), "none at all"),
    "more bytes than the disk has": Fault("tree", listing(entry(size=2**49)), "free some first"),
    "a commit that is none": Fault("info", always(http(200, b'{"sha": "../../main"}')), "names the commit '../../main'"),
    "a commit that is a list": Fault("info", always(http(200, b'{"sha": ["main"]}')), "names the commit"),
    "no commit": Fault("info", always(http(200, b"[]")), "names the commit None"),
    "names that differ in case": Fault("tree", listing(entry(), entry("a/BIG.pt"))),
    **{f"a path {name}": Fault("tree", listing(entry(path)), words) for name, (path, words) in ODD_PATHS.items()},
    **{f"a size that is {name}": Fault("tree", listing(entry(size=size)), "lists no file's path") for name, size in ODD_SIZES.items()},
    # bodies
    "a compressed listing": Fault("tree", always(http(200, BOMB, Content_Encoding="gzip")), "encoding 'gzip'"),
    "a compressed file": Fault("file", always(http(200, BOMB, Content_Encoding="gzip")), "encoding 'gzip'"),
    "a file compressed twice": Fault("file", always(http(200, BOMB, Content_Encoding="deflate, br")), "encoding 'deflate, br'"),
    "a file that is longer": Fault("file", always(http(200, CONTENT + b"x")), "sends 204801 bytes of a/big.pt"),
    "a file that is shorter": Fault("file", always(http(200, CONTENT[:-1])), "sends 204799 bytes of a/big.pt"),
    "a file without end": Fault("file", endless(CHUNKED, CHUNK), "sends more than the 204,800 bytes"),
    "a file of no length without end": Fault("file", endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16)), "sends more than"),
    "a file of no length": Fault("file", always(http(200, CONTENT, Content_Length=""))),
    "a file in chunks": Fault("file", always(CHUNKED + b"32000\r\n" + CONTENT + b"\r\n0\r\n\r\n")),
    "chunks that are none": Fault("file", once(always(CHUNKED + b"many\r\n" + CONTENT))),
    "a length that is none": Fault("file", once(always(http(200, CONTENT, Content_Length="-5")))),
    "another file": Fault("file", always(http(200, CONTENT[::-1])), "other contents"),
    "a file that moved on": Fault("file", always(http(200, bytes(len(CONTENT)), X_Repo_Commit="d" * 40, ETag='"other"')), "other contents"),
    "another etag": Fault("file", always(http(200, CONTENT, ETag='"../../etc"', X_Linked_Size="-1"))),
    "another range": Fault("file", resumed(always(http(206, CONTENT[HALF:], Content_Range=f"bytes 0-{HALF - 1}/{len(CONTENT)}"))), "sends the range"),
    "a range that is none": Fault("file", resumed(always(http(206, CONTENT[HALF:]))), "sends the range ''"),
    "a range of another file": Fault("file", resumed(always(http(206, CONTENT[HALF:], Content_Range=f"bytes {HALF}-{len(CONTENT) - 1}/7"))), "sends the range"),
    "the whole file where a range was asked for": Fault("file", resumed(always(http(200, CONTENT)))),
    "no such range": Fault("file", resumed(always(http(416))), "answered 416"),
    "a connection that ends at once": Fault("file", once(always(b""))),
    "a connection that ends in a header": Fault("file", once(always(b"HTTP/1.1 200 OK\r\nContent-Le"))),
    "an answer that is no HTTP": Fault("tree", always(b"SSH-2.0-OpenSSH\r\n"), "stopped half-way"),
    "a header without end": Fault("tree", endless(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 2**16), "stopped half-way"),
    # refusals
    "no authorization": Fault("info", always(http(401)), "set HF_TOKEN"),
    "forbidden": Fault("file", always(http(403, b"[[[")), "answered 403"),
    "a file that is gone": Fault("file", always(http(404, BOMB, Content_Encoding="gzip")), "answered 404"),
    "a status that is none": Fault("tree", always(http(299)), "answered 299"),
    "a pause of a day": Fault("file", always(http(429, Retry_After="86400")), "asks to wait 86,400 s"),
    "a pause until a day": Fault("tree", always(http(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")), "asks to wait"),
    "a pause of thousands of digits": Fault("info", always(http(503, Retry_After="9" * 5000)), "asks to wait"),
    "a negative pause": Fault("file", once(always(http(429, Retry_After="-5")))),
    "a pause until long ago": Fault("file", once(always(http(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")))),
    "a pause of nonsense": Fault("tree", once(always(http(503, Retry_After="soon, 99 Foo")))),
    "an error once": Fault("info", once(always(http(500, b"\0" * 500)))),
}  # fmt: skip

SILENT = {  # nothing comes
    "no answer": Fault("info", silent, "stopped half-way"),
    "no answer for a file": Fault("file", silent, "stopped half-way"),
    "a body that stops": Fault("file", lambda r: chain([http(200, CONTENT[:9], Content_Length=str(len(CONTENT)))], silent(r)), "stopped half-way"),
}  # fmt: skip

DRIPPING = {  # next to nothing comes
    "a header byte by byte": Fault("tree", drip(single(http(200, b"[]", X_Long="x" * 2000))), "stopped half-way.*KiB came"),
    "a file's header byte by byte": Fault("file", drip(single(http(200, CONTENT, X_Long="x" * 2000))), "stopped half-way.*KiB came"),
    "a listing byte by byte": Fault("tree", drip([http(200, Content_Length="2000"), *single(b"[" * 2000)]), "stopped half-way.*KiB came"),
    "a file byte by byte": Fault("file", drip([http(200, Content_Length=str(len(CONTENT))), *single(CONTENT)]), "stopped half-way.*KiB came"),
    "a chunk's length byte by byte": Fault("file", drip([CHUNKED, *single(b"0" * 2000)]), "stopped half-way.*KiB came"),
    "announcements without end": Fault("info", drip([b"HTTP/1.1 100 Continue\r\n\r\n"] * 2000), "stopped half-way.*KiB came"),
    "redirects byte by byte": Fault("file", drip(single(http(302, bytes(2000), Location="/"))), "stopped half-way.*KiB came"),
    "a byte for each connection": Fault("file", lambda r: http(206, CONTENT[r.number : r.number + 1], Content_Length=str(len(CONTENT) - r.number), Content_Range=f"bytes {r.number}-{len(CONTENT) - 1}/{len(CONTENT)}"), "stopped half-way"),
}  # fmt: skip

BUSY = {  # later, and later again
    "busy for ever": Fault("file", always(http(503)), "answered 503.*try again later"),
    "a pause that is not the last": Fault("tree", always(http(429, Retry_After="0")), "answered 429.*try again later"),
}  # fmt: skip


@dataclass
class FaultyHub:
    """Two hosts at work, and the requests that they had."""

    fault: Fault
    address: str = ""
    elsewhere: str = ""
    requests: list[Request] = field(default_factory=list)
    stopped: Event = field(default_factory=Event)

    def answer(self, target: str, headers: dict[str, str], is_here: bool) -> bytes | Iterable[bytes]:
        route = "file" if "/resolve/" in target or target.endswith("/file") else "tree" if "/tree" in target else "info"
        number = sum(request.route == route for request in self.requests)
        host = route if is_here else "elsewhere"
        request = Request(host, number, target, headers, self.address, self.elsewhere, self.stopped)
        self.requests.append(request)
        if not is_here and target.startswith("/back"):
            return http(302, Location=self.address + target.removeprefix("/back"))
        is_faulty = is_here and route == self.fault.route
        return (self.fault.answer if is_faulty else honest)(Request(route, *list(vars(request).values())[1:]))


@contextlib.contextmanager
def faulty(fault: Fault) -> Iterator[FaultyHub]:
    """Serve a Hub with one fault, and a second host without."""
    hub = FaultyHub(fault)
    with _serving(hub, True) as hub.address, _serving(hub, False) as hub.elsewhere:
        try:
            yield hub
        finally:
            hub.stopped.set()


@contextlib.contextmanager
def _serving(hub: FaultyHub, is_here: bool) -> Iterator[str]:
    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            lines = iter(lambda: self.rfile.readline().decode("latin-1").strip(), "")
            request, *fields = lines
            headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in fields)}
            answer = hub.answer(request.split(" ")[1], headers, is_here)
            with contextlib.suppress(OSError):  # the client went away
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    self.wfile.write(piece)

    server = type("Server", (ThreadingTCPServer,), {"daemon_threads": True, "block_on_close": False})(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
