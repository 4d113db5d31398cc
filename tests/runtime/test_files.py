import os
import socket
import threading
import time

import pytest

from src.errors import UserError
from src.runtime import files
from src.runtime.files import BETWEEN_RENAMES, folder_beside, written_beside


@pytest.fixture
def moved_away(tmp_path):
    """Return a function that makes the folder which process `pid` of machine `host` has moved away, to replace it."""

    def make(host: str, pid: int) -> None:
        old = tmp_path / f".merged~{host}~{pid}~0.old"
        old.mkdir()
        (old / "weights").write_text("the earlier result")

    return make


@pytest.fixture(autouse=True)
def uncleared_folders(monkeypatch):
    """A process clears a folder of leftovers once; forget that it did, so that each test clears anew."""
    monkeypatch.setattr(files, "_cleared", set())


def start_elsewhere(tmp_path) -> None:
    """Write another file in the folder, as a program that starts does."""
    with written_beside(tmp_path / "other") as draft:
        draft.write_text("")


def test_a_folder_that_another_machine_is_replacing_is_left_to_it(tmp_path, moved_away, monkeypatch):
    moved_away("elsewhere", 1)
    start_elsewhere(tmp_path)
    assert not (tmp_path / "merged").exists()
    later = time.time() + BETWEEN_RENAMES + 1
    monkeypatch.setattr(files.time, "time", lambda: later)
    files._cleared.clear()
    start_elsewhere(tmp_path)
    assert (tmp_path / "merged" / "weights").read_text() == "the earlier result"


def test_what_killed_processes_left_is_cleared_and_moved_folders_are_put_back(tmp_path, moved_away):
    host, dead = socket.gethostname(), 2**22 + 1  # above the largest process number
    moved_away(host, dead)
    (tmp_path / f".out.safetensors~{host}~{dead}~0.part").write_text("half")
    (tmp_path / f".other~elsewhere~{dead}~0.part").write_text("of another machine")
    start_elsewhere(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "merged", f".other~elsewhere~{dead}~0.part"}
    assert (tmp_path / "merged" / "weights").read_text() == "the earlier result"


def test_a_living_process_of_this_machine_keeps_its_drafts(tmp_path, moved_away):
    moved_away(socket.gethostname(), os.getppid())
    start_elsewhere(tmp_path)
    assert not (tmp_path / "merged").exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    with folder_beside(tmp_path / "merged") as draft:
        (draft / "first").write_text("1")
    with pytest.raises(RuntimeError), folder_beside(tmp_path / "merged") as draft:
        (draft / "second").write_text("2")
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["merged", "first"]
    with folder_beside(tmp_path / "merged") as draft:
        (draft / "second").write_text("2")
    assert [path.name for path in tmp_path.rglob("*")] == ["merged", "second"]


def test_who_comes_second_says_that_it_waits_and_goes_on_when_the_first_is_done(tmp_path):
    path, said, order = tmp_path / "weights.safetensors", [], []

    def second() -> None:
        with files.locked(path, lambda: said.append("waiting")):
            order.append("second")

    with files.locked(path, lambda: said.append("nobody is there")):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert said == ["waiting"] and order == ["first", "second"]


def test_a_path_is_expanded_as_a_shell_does_and_nobodys_home_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(files.expand_path("~/a b")) == "/somewhere/a b" and str(files.expand_path("./~backup")) == "~backup"
    with pytest.raises(UserError, match="no user here is called nobody-here"):
        files.expand_path("~nobody-here/x")


def test_a_folder_that_another_process_replaces_meanwhile_is_replaced_after_it(tmp_path, monkeypatch):
    folder, rename, came = tmp_path / "merged", files.Path.replace, []

    def replace(path, target):
        result = rename(path, target)
        if target.suffix == ".old" and not came:  # between the two renames
            came.append(folder.mkdir())
            (folder / "theirs").write_text("")
        return result

    for name in ("first", "ours"):
        with folder_beside(folder) as draft:
            (draft / name).write_text("")
        monkeypatch.setattr(files.Path, "replace", replace)
    assert came and [path.name for path in tmp_path.rglob("*")] == ["merged", "ours"]


def test_a_folder_that_vanishes_meanwhile_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "merged"
    folder.mkdir()
    with folder_beside(folder):
        monkeypatch.setattr(files.Path, "exists", lambda path: True)
        folder.rmdir()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_what_killed_processes_left_is_no_reason_to_say_that_the_disk_is_full(tmp_path, monkeypatch):
    draft = tmp_path / f".out~{socket.gethostname()}~{2**22 + 1}~0.part"
    draft.write_text("half")
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=0 if draft.exists() else 2**30))
    files.require_space(tmp_path / "new" / "folder", 2**20)


def test_what_another_process_clears_first_stops_nobody(tmp_path, moved_away, monkeypatch):
    moved_away(socket.gethostname(), 2**22 + 1)

    def replace(path, target):
        raise FileNotFoundError(path)

    monkeypatch.setattr(files.Path, "replace", replace)
    files.require_space(tmp_path, 0)


@pytest.mark.parametrize(("name", "is_abandoned"), [
    ("{host}~{dead}~0", True), ("20260101-120000~{host}~{dead}~3", True), ("{host}~{alive}~0", False),
    ("{host}~{own}~0", True), ("elsewhere~{dead}~0", False), ("{host}~{dead}", False), ("notes", False), ("a~b~c", False),
])  # fmt: skip
def test_names_say_whether_their_process_still_runs(name, is_abandoned):
    facts = {"host": socket.gethostname(), "dead": 2**22 + 1, "alive": os.getppid(), "own": os.getpid()}
    assert files.is_abandoned(name.format(**facts)) is is_abandoned
