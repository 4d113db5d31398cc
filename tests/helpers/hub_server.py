"""A local server with the few routes of the Hugging Face Hub that its client calls, and faults to inject."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
SMALL = 1000  # bytes; larger files are kept as LFS, and sent from another address


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """Repositories in memory, and faults to inject.

    repositories: files by path, by commit, by `models/owner/name` or `datasets/owner/name`; the last commit is main's.
    gated: names of the repositories that are refused with status 403.
    corrupted: paths of files whose contents are sent as zeros.
    cut: by path, the bytes after which the next answer's connection drops, once `go_on` is set.
    failing: by path, the statuses of the next answers; 200 is success.
    requests: (path, Range header) of each file requested.
    ranges: whether Range headers are followed.
    sent: bytes of files sent.
    request_count: number of requests.
    branches: the commit of each branch but main.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    corrupted: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    failing: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    sent: int = 0
    request_count: int = 0
    go_on: Event = field(default_factory=Event)
    address: str = ""
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], kind: str = "models") -> str:
        commit = hashlib.sha1(repr(sorted((path, sha256(content)) for path, content in files.items())).encode()).hexdigest()
        self.repositories.setdefault(f"{kind}/{name}", {})[commit] = files
        return commit

    def commit(self, name: str, revision: str | None) -> str | None:
        commits = self.repositories[name]
        revision = self.branches.get(revision, revision)
        return list(commits)[-1] if revision in (None, "main") else revision if revision in commits else None


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.go_on.set()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.request_count += 1
        path = unquote(urlsplit(self.path).path)
        if match := API.fullmatch(path):
            self._describe(*match.groups())
        elif match := RESOLVE.fullmatch(path):
            self._send(f"{'datasets' if match[1] else 'models'}/{match[2]}", match[3], match[4], moved=False)
        elif path.startswith("/cdn/"):
            _, _, kind, owner, name, commit, file = path.split("/", 6)
            self._send(f"{kind}/{owner}/{name}", commit, file, moved=True)
        else:
            self._answer(404, {"error": "no such route"})

    def _refused(self, name: str, revision: str | None) -> bool:
        if name not in self.hub.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif name in self.hub.gated:
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif self.hub.commit(name, revision) is None:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _describe(self, kind: str, repository: str, route: str | None, revision: str | None) -> None:
        name = f"{kind}/{repository}"
        if self._refused(name, revision):
            return
        commit = self.hub.commit(name, revision)
        if route != "tree":
            return self._answer(200, {"id": repository, "sha": commit, "siblings": [], "tags": [], "downloads": 0, "likes": 0})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "a folder"}]
        for path, content in self.hub.repositories[name][commit].items():
            entry = {"type": "file", "oid": git_name(content), "size": len(content), "path": path}
            lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append({**entry, "lfs": lfs} if len(content) > SMALL else entry)
        self._answer(200, entries)

    def _send(self, name: str, revision: str, path: str, moved: bool) -> None:
        if self._refused(name, revision):
            return
        commit = self.hub.commit(name, revision)
        content = self.hub.repositories[name][commit][path]
        if len(content) > SMALL and not moved:
            return self._answer(302, {}, {"Location": f"/cdn/{name}/{commit}/{path}", "X-Linked-Size": str(len(content))})
        wanted = self.headers.get("Range")
        self.hub.requests.append((path, wanted))
        if self.hub.failing.get(path) and (status := self.hub.failing[path].pop(0)) != 200:
            return self._answer(status, {"error": "out of order"})
        wanted = wanted if self.hub.ranges else None
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if path in self.hub.corrupted:
            content = bytes(len(content))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{sha256(content)}"')
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = min(len(content), start + self.hub.cut.pop(path, len(content)))
        self.wfile.write(content[start:end])
        self.hub.sent += end - start
        if end < len(content):
            self.wfile.flush()
            self.hub.go_on.wait(60)
            self.close_connection = True
            self.connection.close()

    def _answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(body)
