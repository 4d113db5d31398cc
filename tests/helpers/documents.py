"""The pages of the documentation: the commands they tell users to type, and the files they tell users to write."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from tests.helpers.processes import ROOT, run_script

GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPRODUCTIONS = sorted((ROOT / "docs" / "reproduce").glob("*.md"))

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
CODE = re.compile(r"`([^`]+)`")
SAME = "the same"  # in the column `here`: what is in the column `theirs`
STARTERS = ("python", "torchrun")
EXPERIMENT = "+experiment="  # whose runs are many, and tested where experiments are
STOPPED = "every check has passed"
# Where a script has checked all of its options and turns to models, other processes or the network.
WORK = {
    "command_line.build": ["build_family"],
    "command_line.session": ["build_family", "run_processes"],
    "command_line.launch": ["run_processes"],
    "src.data.registry": ["require_data"],
    "src.downloads.hub": ["fetch"],
    "src.downloads.drive": ["fetch_folder"],
}
# What a command may lack: published files and results, which are not in the repository.
LACKING = re.compile(
    rf"{STOPPED}|there are no results in |no fine-tuned weights for |\w+ is not there |the checkpoints of \S+ lie in a bucket|problems in this sweep, named"
)

Command = tuple[str, ...]  # a script of the top folder, and its arguments


def commands(page: Path) -> list[Command]:
    """Return the commands of a page that start a script, but for experiments, in order.

    They are those of blocks marked sh, and of tables of what is typed for others' programs and for this one.
    """
    return [command for command in _commands(page) if not any(word.startswith(EXPERIMENT) for word in command)]


def experiments(page: Path) -> list[str]:
    """Return the names of the experiments that a page tells users to run."""
    words = [word for command in _commands(page) for word in command]
    return [word.removeprefix(EXPERIMENT) for word in words if word.startswith(EXPERIMENT)]


def problems_before_work(script: str, *arguments: str, folder: Path) -> list[str]:
    """Run a command as far as its first work; return what it says is wrong, but for published files that are missing."""
    done = run_script(script, *arguments, cwd=folder, prepare=_stop_before_work)
    return [line for line in done.stderr.splitlines() if not LACKING.search(line)] if done.returncode else []


def _stop_before_work() -> None:
    for module, names in WORK.items():
        for name in names:
            setattr(importlib.import_module(module), name, _stop)


def _stop(*arguments: object, **options: object) -> None:
    raise UserError(STOPPED)


def _commands(page: Path) -> list[Command]:
    blocks = [line for language, block in _blocks(page) if language == "sh" for line in block.replace("\\\n", " ").splitlines()]
    lines = [shlex.split(line, comments=True) for line in (*blocks, *codes_here(page))]
    started = [words[1:] for words in lines if words and words[0] in STARTERS]
    scripts = [(next((word for word in words if word.endswith(".py")), None), words) for words in started]
    return list(dict.fromkeys((script, *words[words.index(script) + 1 :]) for script, words in scripts if script))


def codes_here(page: Path) -> Iterator[str]:
    """Yield the code in the columns `here` of a page's tables of what is typed for others' programs and for this one."""
    for row in re.findall(r"^\| (.*) \|$", page.read_text(), re.M):
        theirs, *here = row.split(" | ")
        if len(here) == 1:
            yield from CODE.findall(theirs if here[0].startswith(SAME) else here[0])


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks of a page whose first line is a comment with a path to that path below a folder."""
    for _, block in _blocks(page):
        if path := re.match(r"# (\S+\.(?:py|yaml))\b.*\n", block):
            target = folder / path[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block)


def examples(page: Path) -> list[str]:
    """Return the Python of a page that is to be run as it stands, and not written to a file."""
    return [block for language, block in _blocks(page) if language == "python" and not block.startswith("# ")]


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page, with their languages."""
    return BLOCK.findall(page.read_text())
