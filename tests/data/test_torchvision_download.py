"""Downloads by torchvision."""

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from src.data.vision.torchvision_download import download_by_torchvision
from src.errors import UserError
from tests.helpers.faulty_hub import SILENT, faulty


@dataclass(frozen=True)
class OneFile:
    """A reader that downloads as torchvision does."""

    root: Path
    url: str

    def missing_files(self) -> list[str]:
        return ["file"]

    def download(self) -> None:
        (self.root / "file").write_bytes(urlopen(self.url).read())


def test_a_server_that_does_not_answer_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("src.data.vision.torchvision_download.SILENCE", 0.1)
    with faulty(SILENT["no answer"]) as hub, pytest.raises(UserError, match=r"could not download SVHN .*timed out.*try again"):
        download_by_torchvision("SVHN", OneFile(tmp_path / "svhn", hub.address), tmp_path)
    assert socket.getdefaulttimeout() is None and not list(tmp_path.glob("**/file"))
