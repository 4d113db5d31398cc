"""A Hub that misbehaves costs a sentence: no token, no file elsewhere, no memory, and no wait without end."""

import contextlib
import json
import os
from types import SimpleNamespace

import pytest
from huggingface_hub import get_session

from src.downloads.client import _redirection
from src.downloads.errors import OddAnswer
from src.downloads.hub import LOCK, fetch
from src.downloads.record import RECORD
from src.errors import UserError
from tests.helpers.faulty_hub import (
    BUSY,
    COMMIT,
    CONTENT,
    DRIPPING,
    FAULTS,
    HALF,
    PATH,
    SHA256,
    SILENT,
    Fault,
    FaultyHub,
    always,
    faulty,
    honest,
    http,
    resumed,
)
from tests.helpers.progress import RecordedProgress

TOKEN = "hf_ofnobody"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("src.downloads.patience.PAUSE", 0.001)
    monkeypatch.setattr("src.downloads.listing.LARGEST_PAGE", 2**19)
    monkeypatch.setattr("src.downloads.listing.LARGEST_LISTING", 2**20)
    monkeypatch.setattr("src.downloads.listing.MOST_PAGES", 20)


def check(fault: Fault, folder, tmp_path) -> FaultyHub:
    """Fetch from a Hub with a fault: the file comes, or one sentence says how to go on, and nothing else happens."""
    progress = RecordedProgress()
    with faulty(fault) as hub:
        if fault.words:
            with pytest.raises(UserError, match=fault.words) as raised:
                fetch("someone/weights", "model", ["*"], folder, endpoint=hub.address, progress=progress)
            (sentence,) = raised.value.problems
            assert sentence.isprintable() and len(sentence) < 1000 and TOKEN not in sentence
        else:
            fetch("someone/weights", "model", ["*"], folder, endpoint=hub.address, progress=progress)
            assert (folder / PATH).read_bytes() == CONTENT
    assert {request.headers.get("authorization") for request in hub.requests if request.route != "elsewhere"} == {
        f"Bearer {TOKEN}"
    }
    assert not [request for request in hub.requests if request.route == "elsewhere" and TOKEN in str(request.headers)]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    written = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".fetch")]
    assert all(path.stat().st_size <= len(CONTENT) for path in written)
    assert all(path.read_bytes() == CONTENT for path in written if not path.name.endswith(".incomplete"))
    assert all(sum(more for _, more in progress.reports) <= planned for planned in progress.planned)
    return hub


@pytest.mark.parametrize("name", FAULTS)
def test_an_odd_answer_costs_a_sentence(name, tmp_path):
    check(FAULTS[name], tmp_path / "folder", tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("src.downloads.patience.PATIENCE", 0.4)


@pytest.mark.parametrize("name", SILENT)
def test_silence_has_an_end(name, tmp_path, monkeypatch, impatient):
    monkeypatch.setattr("src.downloads.client.SILENCE", 0.3)
    check(SILENT[name], tmp_path / "folder", tmp_path)


@pytest.mark.parametrize("name", DRIPPING)
def test_a_byte_now_and_then_has_an_end(name, tmp_path, impatient):
    check(DRIPPING[name], tmp_path / "folder", tmp_path)


@pytest.mark.parametrize("name", BUSY)
def test_repetition_has_an_end(name, tmp_path, monkeypatch):
    monkeypatch.setattr("src.downloads.patience.PATIENCE", 1.0)
    check(BUSY[name], tmp_path / "folder", tmp_path)


HONEST = Fault("none", honest)


def test_links_that_are_there_already_lead_nowhere(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    for path in (elsewhere, folder):
        path.mkdir()
    (folder / "a").symlink_to(elsewhere)
    with faulty(HONEST) as hub, pytest.raises(UserError, match=r"leads out of .* by a link"):
        fetch("someone/weights", "model", ["*"], folder, endpoint=hub.address)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe", "longer"])
def test_a_draft_that_is_none_is_begun_anew(kind, tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.write_text("my own")
    draft = folder / f"{PATH.replace('/', '/.')}.{SHA256[-12:]}.incomplete"
    draft.parent.mkdir(parents=True)
    {
        "link": lambda: draft.symlink_to(mine),
        "pipe": lambda: os.mkfifo(draft),
        "longer": lambda: draft.write_bytes(CONTENT + b"x"),
    }[kind]()
    with faulty(HONEST) as hub:
        fetch("someone/weights", "model", ["*"], folder, endpoint=hub.address)
    assert (folder / PATH).read_bytes() == CONTENT and mine.read_text() == "my own"


def test_a_page_where_a_range_was_asked_for_costs_no_draft(tmp_path):
    fault = Fault("file", resumed(always(http(200, b"<html>Please log in</html>"))), "sends 26 bytes of a/big.pt")
    check(fault, tmp_path / "folder", tmp_path)
    (draft,) = tmp_path.rglob("*.incomplete")
    assert draft.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    "own",
    [
        {"files": {"../escaped.pt": [len(CONTENT), f"sha256:{SHA256}"]}, "commit": COMMIT},
        {"files": {PATH: ["many", "git:../../x"]}, "commit": COMMIT},
        {"files": {PATH: [10**30, f"sha256:{SHA256}"]}, "commit": "../main"},
        {"files": {PATH: [len(CONTENT), f"sha256:{SHA256}"]}, "commit": "../main"},
        {"files": [], "commit": {}},
        [],
    ],
)
def test_a_record_of_a_strangers_is_no_more_trusted_than_a_hub(own, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / RECORD).write_text(json.dumps({"model someone/weights": own}))
    with faulty(HONEST) as hub, contextlib.suppress(UserError):
        assert fetch("someone/weights", "model", ["*"], folder, endpoint=hub.address) == COMMIT
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert {path.name for path in folder.rglob("*") if path.is_file()} <= {RECORD, LOCK, "big.pt"}


@pytest.mark.parametrize("address", ["ftp://hub.example", "hub.example", "http://", "http://hub.example:port", "file:///etc"])
def test_an_endpoint_that_is_no_address_is_said(address, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.raises(UserError, match=f"HF_ENDPOINT is '{address.rstrip('/')}'"):
        fetch("someone/weights", "model", ["*"], tmp_path)


@pytest.mark.parametrize("token", ["hf_of\nnobody", "hf_öf"])
def test_a_token_that_is_none_is_not_repeated(token, tmp_path, monkeypatch):
    monkeypatch.setattr("src.downloads.client.build_hf_headers", lambda: {"authorization": f"Bearer {token}"})
    with pytest.raises(UserError, match="set HF_TOKEN anew") as raised:
        fetch("someone/weights", "model", ["*"], tmp_path)
    assert token not in str(raised.value)


def test_an_address_that_is_less_safe_is_not_gone_on_to():
    url = get_session().build_request("GET", "https://hub.example/a").url
    with pytest.raises(OddAnswer, match="safely"):
        _redirection(SimpleNamespace(url=url, headers={"Location": "http://hub.example/a"}))
    assert _redirection(SimpleNamespace(url=url, headers={"Location": "/b"})).path == "/b"


def test_a_folder_that_cannot_be_one_is_said(tmp_path):
    (tmp_path / "folder").write_text("my own")
    with faulty(HONEST) as hub, pytest.raises(UserError, match="folder cannot be used for a download"):
        fetch("someone/weights", "model", ["*"], tmp_path / "folder", endpoint=hub.address)
