"""Every command of the guides passes the program's checks, as it is typed there, and their Python runs."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import tiny_models
from tests.helpers.adapters import save_adapter
from tests.helpers.documents import GUIDES, REPRODUCTIONS, commands, examples, experiments, problems_before_work, write_files
from tests.helpers.processes import ROOT

LAUNCHER = re.compile(r"hydra[/.]launcher\b.*")  # of clusters that are not here
PAGES = [page for page in GUIDES if page.stem != "add"]  # whose commands run in test_add.py


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with models under the names that the pages use."""
    pretrained, finetuned = tiny_models(tasks=2)
    save_file(pretrained, tmp_path / "base.safetensors")
    for name, model in zip(("cars", "dtd"), finetuned.values(), strict=True):
        save_file(model, tmp_path / f"{name}.safetensors")
        torch.save(model, tmp_path / f"{name}.pt")
        save_adapter(
            tmp_path / "adapters" / name, {"embed.lora_A.weight": torch.randn(1, 4), "embed.lora_B.weight": torch.randn(5, 1)}
        )
    for name in ("checkpoints", "downloads"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_passes_all_checks(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    for source in (page, ROOT / "docs" / "add.md"):  # whose method other pages name
        write_files(source, folder)
    for script, *arguments in commands(page):
        typed = [argument for argument in arguments if not LAUNCHER.fullmatch(argument)]
        assert not problems_before_work(script, *typed, folder=folder), (script, *arguments)
    monkeypatch.chdir(folder)
    for code in examples(page) if page.stem != "python" else ():  # whose parts make one program, which has a test of its own
        exec(code, {})


def test_commands_are_those_of_blocks_and_of_the_column_here(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "Say `python main.py method=ties`.\n"
        "```sh\npip install this\npython main.py method=sum \\\n    'output=a b'  # a remark\npython main.py -m +experiment=iso\n"
        "torchrun --nproc-per-node=2 finetune.py --lr=1\n```\n"
        "```text\npython main.py method=fisher\n```\n"
        "| theirs | here |\n|---|---|\n"
        "| `python a.py --x` | `python main.py method=TSVM` |\n"
        '| `python main.py method="sum" k=1` | the same, always |\n'
        "| `-d` | `tasks=` |\n"
    )
    assert commands(page) == [
        ("main.py", "method=sum", "output=a b"),
        ("finetune.py", "--lr=1"),
        ("main.py", "method=TSVM"),
        ("main.py", "method=sum", "k=1"),
    ]
    assert experiments(page) == ["iso"]


@pytest.mark.parametrize("page", [*GUIDES, *REPRODUCTIONS], ids=lambda page: page.stem)
def test_every_page_that_is_linked_to_is_there(page: Path):
    for link in re.findall(r"\]\(([\w./]+)\)", page.read_text()):
        assert (page.parent / link).is_file(), link


@pytest.mark.parametrize("page", [*GUIDES, *REPRODUCTIONS], ids=lambda page: page.stem)
def test_every_experiment_that_a_page_names_is_there(page: Path):
    for name in experiments(page):
        assert (ROOT / "config" / "experiment" / f"{name}.yaml").is_file(), name
