"""Every option and flag that the pages on the papers set beside others' is one of this program."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from command_line.config import compose_config
from tests.helpers.documents import REPRODUCTIONS, codes_here
from tests.helpers.processes import ROOT

CHOICES = {group: [path.stem for path in (ROOT / "config" / group).glob("*.yaml")] for group in ("method", "finetuning_mode")}
MODELS = (["model=ViT-B-32"], ["model=t5", "model.name=any"])
FLAG = re.compile(r'Flag\(\s*"([\w-]+)"')


def keys(node: object, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all options below a node, and of the nodes themselves."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield prefix + str(key)
        yield from keys(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The options of every method, mode and kind of model, and the flags of the scripts."""
    chosen = [*MODELS, *([f"{group}={name}"] for group, names in CHOICES.items() for name in names)]
    options = {key for overrides in chosen for key in keys(OmegaConf.to_container(compose_config(overrides)))}
    scripts = [*ROOT.glob("*.py"), ROOT / "command_line" / "flags.py"]
    return options | {f"--{name}" for script in scripts for name in FLAG.findall(script.read_text())}


@pytest.mark.parametrize("page", [page for page in REPRODUCTIONS if page.stem != "README"], ids=lambda page: page.stem)
def test_every_option_beside_theirs_is_there(page: Path, known: set[str]):
    codes = [code for code in codes_here(page) if not code.startswith("python ") and "(" not in code]  # no commands, no Python
    words = [word for code in codes for word in code.split()]
    named = {word.partition("=")[0] for word in words if word.startswith("--") or re.match(r"[\w.]+=", word)}
    assert named and named <= known, named - known
