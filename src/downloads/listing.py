"""The commit and the files of a repository, as its Hub lists them: page by page, each of a bounded size."""

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from huggingface_hub.utils import validate_repo_id

from src.downloads.client import HubClient, Response
from src.downloads.errors import OddAnswer, show
from src.downloads.patience import Patience
from src.downloads.verification import COMMIT, ExpectedFile
from src.errors import UserError
from src.runtime.untrusted import parse_json

LARGEST_PAGE = 2**24  # bytes: the thousand files of a page take a fiftieth of it
LARGEST_LISTING = 2**26  # bytes: two hundred thousand files
MOST_PAGES = 1000


def list_files(client: HubClient, repository: str, kind: str, revision: str | None) -> tuple[str, dict[str, ExpectedFile]]:
    """Return the commit of a revision, and its files by path.

    Paths are as they are listed, which need not lie in any folder.

    Raise OddAnswer if the listing is none that a Hub gives.
    """
    validate_repo_id(repository)
    address = f"{client.endpoint}/api/{kind}s/{repository}"
    files: dict[str, ExpectedFile] = {}
    with client.patience() as patience:
        with client.get(address + (f"/revision/{quote(revision, safe='')}" if revision else ""), patience) as response:
            facts = _parse(_read(response, LARGEST_PAGE, patience))
        commit = facts.get("sha") if isinstance(facts, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise OddAnswer(f"names the commit {show(commit)}, which is none")
        for path, file in _entries(client, f"{address}/tree/{commit}", patience):
            if path in files:
                raise OddAnswer(f"lists {show(path)} twice")
            files[path] = file
    return commit, files


def _entries(client: HubClient, tree: str, patience: Patience) -> Iterator[tuple[str, ExpectedFile]]:
    """Yield the paths and files of all pages."""
    query, size = "recursive=true", 0
    for _ in range(MOST_PAGES):
        with client.get(f"{tree}?{query}", patience) as response:
            page = _read(response, min(LARGEST_PAGE, LARGEST_LISTING - size), patience)
            following = response.links.get("next", {}).get("url")
        entries = _parse(page)
        if not isinstance(entries, list):
            raise OddAnswer(f"lists no files but {show(entries)}")
        yield from (_file(entry) for entry in entries if not isinstance(entry, dict) or entry.get("type") == "file")
        if following is None:
            return
        size += len(page)
        query = _query(following)
    raise OddAnswer(f"lists files on more than {MOST_PAGES} pages")


def _query(link: str) -> str:
    """Return the query of the link to the next page, which is asked of the same host whichever it names."""
    try:
        query = urlsplit(link).query
    except ValueError:
        query = ""
    if not query:
        raise OddAnswer(f"names {link[:80]!r} as the next page of files")
    return query


def _file(entry: object) -> tuple[str, ExpectedFile]:
    """Return the path and the file of an entry of a page."""
    try:
        path, lfs = entry["path"], entry.get("lfs")
        if not isinstance(path, str):
            raise TypeError(path)
        return path, ExpectedFile(entry["size"], f"sha256:{lfs['oid']}" if lfs else f"git:{entry['oid']}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OddAnswer(f"lists no file's path, size and hash but {show(entry)}") from error


def _read(response: Response, largest: int, patience: Patience) -> bytes:
    """Return the body of an answer. Raise OddAnswer if it has more than `largest` bytes."""
    body = bytearray()
    for piece in response.iter_raw():
        patience.count(len(piece))
        body += piece
        if len(body) > largest:
            raise OddAnswer(f"lists files in more than {largest / 2**20:,.0f} MiB")
    return bytes(body)


def _parse(body: bytes) -> object:
    try:
        return parse_json(body.decode(errors="replace"), "its listing")
    except UserError as error:
        raise OddAnswer("lists files in no JSON") from error
