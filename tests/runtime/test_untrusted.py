import contextlib
import json
import os
import socket

import pytest

from src.errors import UserError
from src.runtime.untrusted import MAX_DEPTH, open_regular, parse_json, read_bytes, read_json, read_text


def test_a_regular_file_is_read(tmp_path):
    path = tmp_path / "index.json"
    path.write_text('\ufeff{"weight_map": {}}', encoding="utf-8")
    assert read_json(path) == {"weight_map": {}}
    link = tmp_path / "link"
    link.symlink_to(path)
    with open_regular(link) as file:
        assert file.read(6) == b'\xef\xbb\xbf{"w'


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match="no regular file"):
            open_regular(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError):
            open_regular(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")


def test_a_file_larger_than_any_of_its_kind_is_not_read_whole(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_bytes(path, 2**20)
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, 100) == b"x" * 100


@pytest.mark.parametrize("content", [b"[" * 200_000, b"1" * 10_000, b"{", b"\xff\xfe", b'{"a": 1, "a"}', b""])
def test_what_is_no_json_is_a_sentence(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.json .*; get it again"):
        read_json(path)


def test_json_has_a_depth():
    """Else what goes through it later, or prints it, goes deeper than Python does."""
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            with pytest.raises(UserError, match="in one another") if depth > MAX_DEPTH else contextlib.nullcontext():
                parse_json(text, "settings")


def test_text_is_read_as_it_is(tmp_path):
    path = tmp_path / "names"
    path.write_text(json.dumps("é") + "ü", encoding="utf-8")
    assert read_text(path).endswith("ü")
