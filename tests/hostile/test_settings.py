"""Every hostile yaml ends in one sentence, soon and in little memory, wherever the program reads yaml."""

import os
import resource
import time

import pytest

from command_line.config import compose_config
from src.errors import UserError
from src.evaluation.lineage import read_manifests
from src.runtime.untrusted import read_yaml
from tests.helpers.processes import ROOT
from tests.hostile.settings import FILES


@pytest.fixture(autouse=True)
def bounded():
    """Let nothing take much of the processor or of the memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19 and time.process_time() - started < 20


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_yaml_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tasks" / "hostile.yaml"
    path.parent.mkdir()
    FILES[name](path)
    with pytest.raises(UserError) as direct:
        read_yaml(path)
    with pytest.raises(UserError) as manifest:
        read_manifests([path])
    (sentence,) = direct.value.problems
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 400 and sentence.isprintable()
    assert manifest.value.problems == [sentence] and not (tmp_path / "executed").exists()
    if path.is_file():  # Hydra finds no other files
        with pytest.raises(UserError) as composed:
            compose_config([f"hydra.searchpath=[{tmp_path}]", "tasks=hostile"])
        assert composed.value.problems == [sentence]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="no regular file"):
        read_manifests([tmp_path / "pipe.yaml"])


def test_settings_as_people_write_them_are_read(tmp_path):
    for path in (ROOT / "config").rglob("*.yaml"):
        read_yaml(path)
    names = "\n".join(f"  - class number {number}" for number in range(10_000))
    (tmp_path / "many.yaml").write_text(
        f"base: &base {{epochs: 3, templates: ['a {{}}.']}}\nA: *base\nB: {{<<: *base}}\nclasses:\n{names}\n"
    )
    value = read_yaml(tmp_path / "many.yaml")
    assert len(value["classes"]) == 10_000 and value["A"] == value["B"] == {"epochs": 3, "templates": ["a {}."]}
