"""Imports point down, level by level, and never go round."""

import ast
from pathlib import Path

import pytest

from tests.helpers.processes import ROOT

# Lowest first. A package imports packages of lower levels and itself; those of one level never import one another.
LEVELS = [
    {"src.errors"},
    {"src.runtime", "src.state_dict", "src.validation"},
    {"src.downloads", "src.elementwise", "src.pickles"},
    {"src.compact"},
    {"src.checkpoints"},
    {"src.task_vectors"},
    {"src.data", "src.merging", "src.models"},
    {"src.training", "src.statistics"},
    {"src.evaluation"},
    {"src.experiments"},
    {"src.reports"},
    {"command_line"},
    {path.stem for path in ROOT.glob("*.py")},  # the scripts
]
LEVEL_OF = {package: number for number, packages in enumerate(LEVELS) for package in packages}
MODULES = sorted(path for folder in ("src", "command_line") for path in (ROOT / folder).rglob("*.py"))
SOURCES = [*MODULES, *sorted(ROOT.glob("*.py"))]

# What only these packages may import.
ONLY_IN = {
    ("hydra", "omegaconf"): ("command_line", *LEVELS[-1]),
    ("open_clip", "timm", "tokenizers", "transformers"): ("src.models",),
    ("huggingface_hub", "gdown"): ("src.downloads", "src.data"),
    ("filelock",): ("src.runtime", "src.downloads", "src.data"),
    ("jinja2",): ("src.data.text",),
    ("matplotlib",): ("src.reports",),
    ("regex",): ("src.runtime",),
    ("scipy", "threadpoolctl"): ("src.merging.engine", "src.reports.measures"),
}
MERGING = {
    *("torch", "scipy", "threadpoolctl", "src"),
    *(
        "abc",
        "collections",
        "concurrent",
        "contextlib",
        "ctypes",
        "dataclasses",
        "functools",
        "hashlib",
        "heapq",
        "math",
        "os",
        "re",
        "statistics",
        "threading",
    ),
    "typing",
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it: `from package import module` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in names}
    return found


NAMES = {module_of(path) for path in SOURCES}


def package_of(module: str) -> str:
    """Return the package of a module: a folder or module of src, command_line, or a script."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "src" else parts[0]


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_every_module_has_a_level(path):
    assert module_of(path) == "src" or package_of(module_of(path)) in LEVEL_OF


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    package = package_of(module)
    for other in {package_of(name) for name in imports(path) if name.split(".")[0] in {"src", "command_line", *LEVELS[-1]}}:
        below = other != "src" and LEVEL_OF[other] < LEVEL_OF[package]
        assert other == package or below, f"{module} imports {other}, which is not below it"


def test_no_imports_go_round():
    """Of modules, those in one package included, and wherever in a module an import stands."""
    graph = {module_of(path): imports(path) & NAMES for path in SOURCES}
    state: dict[str, str] = {}

    def visit(module: str, way: list[str]) -> None:
        if state.get(module) == "open":
            raise AssertionError(" imports ".join([*way[way.index(module) :], module]))
        if module not in state:
            state[module] = "open"
            for other in sorted(graph[module] - {module}):
                visit(other, [*way, module])
            state[module] = "done"

    for module in sorted(graph):
        visit(module, [])


def test_src_is_a_table_of_contents():
    assert len([path for path in (ROOT / "src").glob("*.py") if path.name != "__init__.py"]) <= 6


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_stay_in_their_packages(path):
    module, roots = module_of(path), {name.split(".")[0] for name in imports(path)}
    for libraries, packages in ONLY_IN.items():
        if not any(f"{module}.".startswith(f"{package}.") for package in packages):
            assert not roots & set(libraries), f"{module} imports {roots & set(libraries)}, which is for {packages}"
    if module.startswith("src.merging"):
        assert roots <= MERGING, f"merging knows tensors and no disk, model or data; {module} imports {roots - MERGING}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))
