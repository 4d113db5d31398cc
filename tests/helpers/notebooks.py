"""Notebooks, executed in a folder that looks like a clone of this repository."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.helpers.processes import ROOT

READ = ("command_line", "config", "demo", "src", "main.py", "merging.py")  # of the repository, by notebooks


def clone(folder: Path, **others: Path) -> Path:
    """Return a folder with links to what notebooks read of the repository, and to `others` by their names."""
    for name, target in {**{name: ROOT / name for name in READ}, **others}.items():
        (folder / name).symlink_to(target)
    return folder


def execute(name: str, folder: Path) -> str:
    """Execute a notebook in a folder, in an IPython of its own; return all that its cells print.

    Raise CellExecutionError at a cell with an error.
    """
    notebook = nbformat.read(ROOT / name, as_version=4)
    environment = {**os.environ, "IPYTHONDIR": str(folder / ".ipython"), "COLUMNS": "100"}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return printed(notebook)


def printed(notebook: nbformat.NotebookNode) -> str:
    """Return what the cells of a notebook printed; not warnings, which name places of this machine."""
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
