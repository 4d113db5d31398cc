"""Imports point down: the floors of the house, enforced."""

import ast
from pathlib import Path

import pytest

from tests.processes import ROOT

# lowest first; the three wings of the third floor never import one another
FLOORS = [
    {"src.errors", "src.fetching", "src.files", "src.old_formats", "src.partial_eigen", "src.state_dict", "src.weight_files"},
    {
        "src.adapters",
        "src.checkpoints",
        "src.compact",
        "src.conversion",
        "src.masks",
        "src.pixels",
        "src.published",
        "src.saving",
        "src.task_vectors",
    },
    {"src.merging", "src.models", "src.data"},
    None,  # every other module of src
]
WINGS = FLOORS[2]
SCRIPTS = [*ROOT.glob("*.py"), *(ROOT / "command_line").glob("*.py")]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
    return found


def wing_of(module: str) -> str | None:
    return next((wing for wing in WINGS if module == wing or module.startswith(f"{wing}.")), None)


def floor_of(module: str) -> int:
    if wing_of(module):
        return 2
    package = ".".join(module.split(".")[:2])
    return next((number for number, modules in enumerate(FLOORS[:2]) if package in modules), 3)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    for name in imports(path):
        if not name.startswith("src"):
            top = {script.relative_to(ROOT).parts[0].removesuffix(".py") for script in SCRIPTS}
            assert name.split(".")[0] not in top, f"{module} imports a script"
            continue
        assert floor_of(name) <= floor_of(module), f"{module} imports {name}, which is above it"
        if wing_of(module) and wing_of(name):
            assert wing_of(module) == wing_of(name), f"{module} imports {name}, another wing"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_stay_in_their_rooms(path):
    module, roots = module_of(path), {name.split(".")[0] for name in imports(path)}
    assert not roots & {"hydra", "omegaconf"}, "only entry scripts know of hydra"
    if not module.startswith("src.models"):
        assert not roots & {"open_clip", "transformers", "timm"}
    if module.startswith("src.merging"):
        own = {
            "torch",
            "src",
            "math",
            "abc",
            "collections",
            "concurrent",
            "contextlib",
            "dataclasses",
            "functools",
            "statistics",
            "threading",
            "typing",
        }
        assert roots <= own, f"merging is torch only; {module} imports {roots - own}"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: path.name)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))
