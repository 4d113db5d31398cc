"""The examples of docs/add.md run as they are typed there."""

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.documents import commands, write_files
from tests.helpers.processes import ROOT, run_script

PAGE = ROOT / "docs" / "add.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and the photographs and reviews that they speak of."""
    folder = tmp_path_factory.mktemp("add")
    write_files(PAGE, folder)
    for split in ("train", "test"):
        for shade, name in enumerate(("crow", "swan")):
            path = folder / "photographs" / "birds" / split / name
            path.mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (32, 32), (20 * number + shade, 200 * shade, 90)).save(path / f"{number}.png")
    (folder / "reviews").mkdir()
    for split in ("train", "val", "test"):
        (folder / "reviews" / f"{split}.csv").write_text("text,label\nI liked it.,1\nI left early.,0\n")
    return folder


@pytest.mark.parametrize("command", commands(PAGE), ids=" ".join)
def test_an_example_runs(command: tuple[str, ...], folder: Path):
    script, *arguments = command
    done = run_script(script, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
