"""Modules of the user's own: imported by plugins=, their errors shown as they are."""

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType

from omegaconf import DictConfig, ListConfig

from command_line.overrides import typed_overrides
from src.errors import UserError, raise_any
from src.runtime.files import expand_path

_modules: set[str] = set()  # that plugins= named, imported or about to be


class CodeError(Exception):
    """An error while a module that a configuration names was imported; the error itself is the cause.

    module: its name.
    """

    def __init__(self, module: str):
        super().__init__(module)
        self.module = module


def load_plugins(config: DictConfig) -> list[str]:
    """Import the modules that plugins= names; return their names.

    Raise UserError for all that are not there, CodeError for the first with an error in it.
    """
    plugins = config.plugins
    listed = [plugins] if isinstance(plugins, str) else list(plugins) if isinstance(plugins, ListConfig) else plugins or []
    if not isinstance(listed, list) or not all(isinstance(text, str) and text for text in listed):
        raise UserError(f"plugins lists modules or paths, such as plugins=[median.py]; got {plugins}")
    is_typed = any(text.lstrip("+").startswith("plugins=") for text in typed_overrides())
    if listed and not is_typed:  # else who is handed a yaml would run whatever it names
        raise UserError(f"plugins= runs code, so it is for the command line only: type 'plugins=[{','.join(listed)}]' there")
    names, problems = [], []
    for text in listed:
        try:
            names.append(_find_plugin(text))
        except UserError as error:
            problems += error.problems
    raise_any(problems)
    _modules.update(names)
    for name in names:
        import_module(name, f"plugins={name}")
    return names


@functools.cache
def _find_plugin(text: str) -> str:
    """Return the name of a module that is given by its name or its path, and can be imported from now on."""
    path = expand_path(text).resolve()
    if not (text.endswith(".py") or os.sep in text or path.is_dir()):
        if not all(map(str.isidentifier, text.split("."))) or _spec(text.split(".")[0]) is None:
            raise UserError(f"plugins= names {text}, and there is neither such a module nor such a file; check its name")
        return text
    if not path.exists():
        raise UserError(f"plugins= names {path}, and nothing is there; check the path")
    if not path.stem.isidentifier() or (path.is_file() and path.suffix != ".py"):
        raise UserError(f"plugins= names {path}, which cannot be imported by that name; rename it (letters, digits, _, then .py)")
    sys.path.append(str(path.parent))  # at the end: a file of the user's takes no other module's place
    importlib.invalidate_caches()
    spec = _spec(path.stem)
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    if str(path) not in [str(Path(place).resolve()) for place in places if place]:
        raise UserError(f"plugins= names {path}, and there is another module {path.stem} ({places[-1]}); rename yours")
    return path.stem


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module of the top level is; None if there is none."""
    try:
        return find_spec(module)
    except ValueError:  # the script itself is a module without a place
        return None


def import_module(module: str, source: str) -> ModuleType:
    """Return a module, which `source` names. Raise UserError if there is none, CodeError if there is an error in it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{source}: there is no module {error.name}; check its name") from error
        raise CodeError(module) from error
    except UserError:
        raise
    except Exception as error:
        raise CodeError(module) from error


def is_within(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of `packages`, or in one."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def own_error(error: BaseException) -> str | None:
    """Return the description of an error that arose in a plugin, or in a module when it was imported, with its traceback.

    None if it arose in this program.
    """
    if isinstance(error, CodeError):
        place, error = error.module, error.__cause__
        modules = {place}
    else:
        names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        ours = [name for name in names if is_within(name, {"src", "command_line", *_modules})]
        if not ours or not is_within(ours[-1], _modules):
            return None
        place, modules = ours[-1], _modules
    lines = "".join(traceback.format_exception(type(error), error, _from_first(error.__traceback__, modules))).rstrip()
    return f"{place} has an error of its own, a {type(error).__name__}; correct it where this says:\n{lines}"


def _from_first(trace: TracebackType | None, modules: set[str]) -> TracebackType | None:
    """Return a traceback from the first frame on that is of one of these modules."""
    while trace and not is_within(trace.tb_frame.f_globals.get("__name__", ""), modules):
        trace = trace.tb_next
    return trace
