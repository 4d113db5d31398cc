"""Notebooks: they run as they are, and what they printed is kept. LiNeS_example.ipynb runs in test_demo.py, beside the demo."""

import nbformat
import pytest

from tests.helpers.notebooks import clone, execute, printed
from tests.helpers.processes import ROOT

NOTEBOOKS = sorted(path.name for path in ROOT.glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_those_of_one_run_from_top_to_bottom(name):
    cells = [cell for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    text = (ROOT / name).read_text()
    assert len(text) < 300_000 and str(ROOT) not in text and "/tmp/" not in text


def test_models_of_your_own_are_merged_written_and_read_back(tmp_path):
    text = execute("merge_your_own.ipynb", clone(tmp_path))
    assert "merged.safetensors is the same model: True" in text and "\nequal: True" in text
    table = {line[:28].strip(): float(line.split()[-1]) for line in text.splitlines()[1:11]}
    assert table["TSVM"] > table["average"] > table["pre-trained"]
    kept = printed(nbformat.read(ROOT / "merge_your_own.ipynb", as_version=4))
    assert [line.split()[0] for line in text.splitlines()] == [line.split()[0] for line in kept.splitlines()]
