"""Whatever a file holds, the program executes nothing of it, writes nowhere else, and ends soon in sentences."""

import sys

import pytest
from safetensors.torch import save_file

from tests.conftest import tiny_models
from tests.hostile.harness import CANARY, Zygote, statuses_of, tables

CASES = [(table, name) for table in tables() for name in table.FILES]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks are those of Linux")


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.mark.parametrize("table,name", CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_hostile_file_ends_in_a_sentence(table, name, tmp_path, zygote):
    pretrained, finetuned = tiny_models(1)
    save_file(pretrained, tmp_path / "base.safetensors")
    save_file(finetuned["task0"], tmp_path / "good.safetensors")
    (tmp_path / "hostile").mkdir()
    path = tmp_path / "hostile" / name
    table.FILES[name](path)
    for command in table.commands(path):
        outcome = zygote.run(command, tmp_path)
        faults = outcome.faults(statuses_of(table, name))
        assert not faults, f"{' '.join(command)}: {faults}\n{outcome.stdout[-500:]}\n{outcome.stderr[-3000:]}"
        assert not list(tmp_path.rglob(CANARY)), f"{' '.join(command)} executed what is in the file"
