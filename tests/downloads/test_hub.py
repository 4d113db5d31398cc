"""Files of a repository, through the real client, from a Hub on this machine."""

import errno
import os
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from src.downloads.errors import is_interruption
from src.downloads.hub import LOCK, fetch
from src.downloads.record import RECORD
from src.errors import UserError
from tests.helpers.hub_server import Hub, serving
from tests.helpers.processes import ROOT
from tests.helpers.progress import RecordedProgress

NAME = "someone/weights"
BIG = os.urandom(300_000)
FILES = {"a/ViT-B-32/big.pt": BIG, "a/ViT-B-32/small.json": b"{}", "a/ViT-L-14/other.pt": BIG[:5000], "README.md": b"words"}


@pytest.fixture
def hub():
    with serving(Hub()) as hub:
        hub.add(NAME, FILES)
        yield hub


def get(hub, folder, patterns=("*32*",), name=NAME, kind="model", **options):
    return fetch(name, kind, patterns, folder, endpoint=hub.address, **options)


def there(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".fetch")}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_files_that_match_are_fetched_under_their_paths_and_told_of(hub, tmp_path, kind):
    commit = hub.add("someone/else", FILES, kind=f"{kind}s")
    progress = RecordedProgress()
    found = get(hub, tmp_path, name="someone/else", kind=kind, progress=progress)
    assert found == commit and there(tmp_path) == {"a/ViT-B-32/big.pt", "a/ViT-B-32/small.json"}
    assert (tmp_path / "a/ViT-B-32/big.pt").read_bytes() == BIG
    assert sum(progress.planned) == sum(done for _, done in progress.reports) == len(BIG) + 2


def test_a_second_time_nothing_is_asked_for(hub, tmp_path):
    first = get(hub, tmp_path)
    count = hub.request_count
    assert get(hub, tmp_path) == first and hub.request_count == count
    get(hub, tmp_path, ("*14*",))
    assert there(tmp_path) == {"a/ViT-B-32/big.pt", "a/ViT-B-32/small.json", "a/ViT-L-14/other.pt"}
    assert [path for path, _ in hub.requests].count("a/ViT-B-32/big.pt") == 1


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("src.downloads.patience.PAUSE", 0.01)


def test_an_interrupted_file_goes_on_in_the_same_run(hub, tmp_path):
    hub.cut["a/ViT-B-32/big.pt"] = 100_000
    get(hub, tmp_path)
    assert (tmp_path / "a/ViT-B-32/big.pt").read_bytes() == BIG
    assert [wanted for path, wanted in hub.requests if path.endswith("big.pt")] == [None, "bytes=100000-"]
    assert hub.sent == len(BIG) + 2


def test_an_interrupted_file_goes_on_in_a_later_run(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("src.downloads.patience.PATIENCE", 1.0)
    hub.cut["a/ViT-B-32/big.pt"] = 200_000
    hub.failing["a/ViT-B-32/big.pt"] = [200, *[503] * 7]  # as often as is asked within a second
    with pytest.raises(UserError, match=r"answered 503.*try again later: it goes on where it stopped"):
        get(hub, tmp_path)
    assert "a/ViT-B-32/big.pt" not in there(tmp_path)
    hub.requests.clear()
    hub.failing.clear()
    progress = RecordedProgress()
    get(hub, tmp_path, progress=progress)
    assert hub.requests[0] == ("a/ViT-B-32/big.pt", "bytes=200000-")
    assert hub.sent == len(BIG) + 2 == sum(done for _, done in progress.reports)
    assert (tmp_path / "a/ViT-B-32/big.pt").read_bytes() == BIG and not list(tmp_path.rglob("*.incomplete"))


def test_a_server_that_sends_no_ranges_sends_all_again(hub, tmp_path):
    hub.cut["a/ViT-B-32/big.pt"] = 200_000
    hub.ranges = False
    progress = RecordedProgress()
    get(hub, tmp_path, progress=progress)
    assert (tmp_path / "a/ViT-B-32/big.pt").read_bytes() == BIG
    assert hub.sent == 200_000 + len(BIG) + 2 and sum(done for _, done in progress.reports) == len(BIG) + 2


def test_a_killed_run_loses_nothing_that_had_come(hub, tmp_path):
    long = os.urandom(2**20) * 22
    hub.add("someone/long", {"long.pt": long})
    hub.cut["long.pt"] = 21 * 2**20
    hub.go_on.clear()
    command = "import sys; from pathlib import Path; from src.downloads.hub import fetch; fetch('someone/long', 'model', ['*.pt'], Path('.'), endpoint=sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", command, hub.address], cwd=tmp_path, env=environment)
    while not any(draft.stat().st_size == 21 * 2**20 for draft in tmp_path.glob(".*.incomplete")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    hub.go_on.set()
    commit = get(hub, tmp_path, ("*.pt",), name="someone/long")
    assert hub.requests[-1] == ("long.pt", f"bytes={21 * 2**20}-") and (tmp_path / "long.pt").read_bytes() == long
    assert commit in (tmp_path / RECORD).read_text()


@pytest.mark.parametrize("path", ["a/ViT-B-32/big.pt", "a/ViT-B-32/small.json"])
def test_a_file_with_other_contents_is_removed_and_named(hub, tmp_path, path):
    hub.corrupted.add(path)
    with pytest.raises(UserError, match=f"{path} came with other contents.*was removed"):
        get(hub, tmp_path)
    assert path not in there(tmp_path) and not list(tmp_path.rglob("*.incomplete"))
    hub.corrupted.clear()
    get(hub, tmp_path)
    assert path in there(tmp_path)


def test_what_was_fetched_once_stays_at_its_commit(hub, tmp_path):
    first = get(hub, tmp_path)
    second = hub.add(NAME, {**FILES, "a/ViT-B-32/small.json": b"{1}", "a/ViT-B-32/new.json": b"new"})
    assert get(hub, tmp_path) == first and (tmp_path / "a/ViT-B-32/small.json").read_bytes() == b"{}"
    assert get(hub, tmp_path / "other") == second
    assert get(hub, tmp_path, revision="main") == second
    assert (tmp_path / "a/ViT-B-32/small.json").read_bytes() == b"{1}" and (tmp_path / "a/ViT-B-32/new.json").exists()
    assert get(hub, tmp_path, revision=first) == first
    assert (tmp_path / "a/ViT-B-32/small.json").read_bytes() == b"{}"
    assert [path for path, _ in hub.requests].count("a/ViT-B-32/big.pt") == 2  # once for each folder


def test_a_file_that_was_damaged_later_is_fetched_again(hub, tmp_path):
    get(hub, tmp_path)
    (tmp_path / "a/ViT-B-32/big.pt").write_bytes(BIG[:-1])
    get(hub, tmp_path)
    assert (tmp_path / "a/ViT-B-32/big.pt").read_bytes() == BIG


def test_files_put_there_by_hand_are_verified_and_others_left_alone(hub, tmp_path):
    (tmp_path / "a/ViT-B-32").mkdir(parents=True)
    (tmp_path / "a/ViT-B-32/big.pt").write_bytes(BIG)
    (tmp_path / "a/ViT-B-32/small.json").write_text("my own")
    with pytest.raises(UserError, match=r"small\.json is there and is not what is to be fetched"):
        get(hub, tmp_path)
    (tmp_path / "a/ViT-B-32/small.json").unlink()
    get(hub, tmp_path)
    assert [path for path, _ in hub.requests] == ["a/ViT-B-32/small.json"]


def test_a_spoiled_record_costs_only_time(hub, tmp_path):
    get(hub, tmp_path)
    (tmp_path / RECORD).write_text("[1")
    get(hub, tmp_path)
    assert len(hub.requests) == 2


def test_what_is_not_there_is_said_in_a_sentence(hub, tmp_path):
    hub.add("someone/secret", FILES)
    hub.gated.add("models/someone/secret")
    for options, words in (
        ({"name": "someone/nothing"}, "there is no model someone/nothing at http"),
        ({"name": "a/b/c"}, "owner/name"),
        ({"revision": "v9"}, "no such revision"),
        ({"name": "someone/secret"}, "asks who uses it.*hf auth login"),
        ({"patterns": ("*64*",)}, "no file like \\*64\\*.*README.md"),
    ):
        with pytest.raises(UserError, match=words):
            get(hub, tmp_path, **options)


def test_without_a_network_the_way_by_hand_is_said(tmp_path):
    with serving(Hub()) as gone:
        pass
    with pytest.raises(
        UserError, match=r"cannot be reached.*download \*32\* from .*someone/weights/tree/main.*put the files into"
    ):
        get(gone, tmp_path)


def test_a_repository_cannot_write_outside_the_folder(hub, tmp_path):
    hub.add("someone/bad", {"../../escaped32": b"x"})
    with pytest.raises(UserError, match="outside its folder"):
        get(hub, tmp_path / "deep" / "er", name="someone/bad")
    assert not list(tmp_path.rglob("escaped32"))


def test_hidden_files_of_a_repository_are_left_out(hub, tmp_path):
    """Else one of them could be our record, which says what was verified."""
    hidden = {".fetched.json": b"[]", ".fetching.lock": b"x", ".git/hooks/a": b"x", "a/.b.pt.012345678901.incomplete": b"x"}
    hub.add("someone/sly", {**hidden, "a/seen.pt": b"y"})
    get(hub, tmp_path, ("*",), name="someone/sly")
    assert there(tmp_path) == {"a/seen.pt"} and (tmp_path / RECORD).read_text() != "[]"
    with pytest.raises(UserError, match=r"no file like \.fetched\*.*it has 'a/seen\.pt'"):
        get(hub, tmp_path, (".fetched*",), name="someone/sly")


def test_drafts_of_another_commit_are_removed(hub, tmp_path):
    (tmp_path / "a/ViT-B-32").mkdir(parents=True)
    left, mine = (tmp_path / "a/ViT-B-32" / name for name in (".big.pt.0123456789ab.incomplete", ".big.pt.notes"))
    for path in (left, mine):
        path.write_text("half")
    get(hub, tmp_path)
    assert not left.exists() and mine.exists()


def test_who_waits_for_another_program_is_told(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("src.downloads.hub.LOCK_NOTICE", 0.01)
    monkeypatch.setattr("src.downloads.hub.LOCK_TIMEOUT", 0.01)
    lock = FileLock(tmp_path / LOCK)
    with lock, pytest.raises(UserError, match=r"another program holds .*\.fetching\.lock.*wait until"):
        get(hub, tmp_path)

    progress = RecordedProgress(on_report=lambda what, done: lock.release())
    lock.acquire()
    get(hub, tmp_path, progress=progress)
    assert progress.reports[0][0] == f"waiting for another program that fetches into {tmp_path}"
    assert there(tmp_path) == {"a/ViT-B-32/big.pt", "a/ViT-B-32/small.json"}


def test_errors_of_the_disk_are_no_interruptions():
    assert is_interruption(ConnectionResetError()) and is_interruption(TimeoutError())
    assert not is_interruption(OSError(errno.EIO, "Input/output error")) and not is_interruption(PermissionError("no"))


def test_a_full_disk_is_said(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(UserError, match="free some first"):
            get(hub, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("src.downloads.transfer._continue", full)
    with pytest.raises(UserError, match="no space left in"):
        get(hub, tmp_path)
