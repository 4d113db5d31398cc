"""What a command imports: nothing that it does not need, so that it starts fast; and how its threads will wait."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from src.runtime.openmp import SPIN_COUNT
from tests.helpers.processes import ROOT

FILES = ["model=files", "pretrained=base.safetensors", "finetuned=[a.safetensors,b.safetensors]", "output=merged.safetensors"]
SCORING = {"PIL", "open_clip", "torchvision", "transformers", "timm", "h5py", "pyarrow", "datasets", "huggingface_hub", "peft"}
FIGURES = {"matplotlib", "rich", "src.experiments.analysis", "src.reports"}
TABLES = {"src.data", "src.models.clip", "src.evaluation.evaluator", "src.training.loop"}
FORBIDDEN = {
    "help": (["--help"], {"torch", "numpy", "scipy", *SCORING, *FIGURES, *TABLES}),
    "sum": ([*FILES, "method=sum", "specify_lambda=0.3"], {"scipy", *SCORING, *FIGURES, *TABLES}),
    "lines": ([*FILES, "method=ties", "method.apply_lines=True", "specify_lambda=1"], {"scipy", *SCORING, *FIGURES, *TABLES}),
    "masks": ([*FILES[:3], "output=out", "method=tall_mask", "specify_lambda=0.4"], {"scipy", *SCORING, *FIGURES, *TABLES}),
    "TSVM": ([*FILES, "method=TSVM", "specify_lambda=1"], SCORING | FIGURES | TABLES),
}
SCRIPT = """
import json, runpy, sys
sys.argv = [{script!r}, *{arguments!r}]
sys.path.insert(0, {root!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
json.dump(sorted(sys.modules), open("modules.json", "w"))
"""


@pytest.mark.parametrize("command", FORBIDDEN)
def test_a_command_imports_only_what_it_needs(command, tmp_path):
    base = {f"layers.{block}.weight": torch.randn(8, 8) for block in range(2)}
    for name in ("base", "a", "b"):
        save_file({key: leaf + 0.1 * torch.randn(8, 8) for key, leaf in base.items()}, tmp_path / f"{name}.safetensors")
    arguments, forbidden = FORBIDDEN[command]
    script = SCRIPT.format(script=str(ROOT / "main.py"), arguments=arguments, root=str(ROOT))
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    modules = json.loads((tmp_path / "modules.json").read_text())
    imported = {module for module in modules for name in forbidden if module == name or module.startswith(f"{name}.")}
    assert not imported, f"main.py {' '.join(arguments)} imports {sorted(imported)[:5]}"
    assert command == "help" or any(tmp_path.glob("merged.safetensors")) or (tmp_path / "out").exists()


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_script_imports_the_command_line_before_torch_and_whatever_imports_torch(script):
    imports = [node for node in ast.parse((ROOT / script).read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    packages = [name.split(".")[0] for name in names]
    assert set(packages[: packages.index("command_line")]) <= {*sys.stdlib_module_names, "hydra", "omegaconf"}


@pytest.mark.parametrize(
    "own, spin_count", [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_spin_shortly_unless_the_environment_says_how_they_wait(own, spin_count):
    unset = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import os, command_line.build; print(os.environ.get('GOMP_SPINCOUNT'))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**unset, **own}, capture_output=True, text=True)
    assert run.stdout.strip() == spin_count
