"""Objects that a configuration names by `_target_`: classes of this program of the kind asked for, and those of plugins."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from command_line.composition import ROOT
from command_line.plugins import import_module, is_within
from src.errors import UserError, raise_any

TARGET = "_target_"
TYPES = {str: ["text"], bool: ["true", "false"], int: ["a whole number"], float: ["a number"], NoneType: ["null"]}  # in words


@dataclass(frozen=True)
class Kind:
    """What an option of the configuration describes.

    option: its name.
    what: in words.
    package: the part of this program that has the classes of this kind.
    base: the class or protocol that they have.
    parts: the classes that may stand in their options.
    """

    option: str
    what: str
    package: str
    base: type
    parts: tuple[type, ...] = ()

    def lacks(self, class_: type) -> list[str]:
        """Return the members of the base that a class does not have or leaves abstract."""
        if not getattr(self.base, "_is_protocol", False) and not issubclass(class_, self.base):
            return [f"the base class {self.base.__module__}.{self.base.__name__}"]
        required = [name for name, member in vars(self.base).items() if inspect.isfunction(member) and name[0] != "_"]
        abstract = getattr(class_, "__abstractmethods__", ())
        return [*(name for name in required if not callable(getattr(class_, name, None))), *sorted(abstract)]


def instantiate(
    node: Mapping, kind: Kind, plugins: Sequence[str] = (), offers: Mapping[str, Callable[[], object]] | None = None
) -> object:
    """Return the object that a node describes: its `_target_`, called with the node's other options and what it takes of
    `offers`.

    node: plain containers; nodes in it with a `_target_` become objects, too.
    plugins: names of imported modules, whose classes may be named.
    offers: by the names of arguments, what makes their values; called for those alone that the class takes.

    Raise UserError for classes that may not be built here, of which nothing is imported then, and for options that a class
    does not have. Raise CodeError if a module has an error.
    """
    _check(node, kind, plugins)
    return _build(node, kind, plugins, kind.option, offers or {})


def class_of(node: Mapping, kind: Kind, plugins: Sequence[str] = ()) -> type:
    """Return the class of the object that a node describes. Raise as `instantiate` does if it may not be built here."""
    _check(node, kind, plugins)
    return _find_class(node[TARGET], kind, plugins, kind.option)


def _check(node: Mapping, kind: Kind, plugins: Sequence[str]) -> None:
    """Raise UserError unless a node names a class, and all classes in it may be built here."""
    if TARGET not in node:
        raise UserError(f"{kind.option} names no class; give {kind.option}.{TARGET}, or choose another {kind.option}")
    raise_any(_refusals(node, kind, plugins, kind.option))


def _refusals(value: object, kind: Kind, plugins: Sequence[str], option: str) -> Iterator[str]:
    """Yield a sentence for each class below an option that may not be built, judged by its name alone."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _refusals(each, kind, plugins, f"{option}.{number}")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            name = f"{option}.{key}"
            if key == TARGET:
                if not _is_allowed(each, kind, plugins):
                    yield (
                        f"{name}={each} is no {kind.what} of this program ({kind.package}), nor of a module that plugins= names; "
                        "if it is yours, name its file with plugins=[FILE.py]"
                    )
            elif isinstance(key, str) and key.startswith("_") and key.endswith("_"):
                yield f"{name} is an option of Hydra's that this program does not have; leave it out"
            else:
                yield from _refusals(each, kind, plugins, name)


def _is_allowed(target: object, kind: Kind, plugins: Sequence[str]) -> bool:
    """Whether a name is of a class in a module of the kind's package, or in a plugin."""
    if not isinstance(target, str) or not all(map(str.isidentifier, target.split("."))):
        return False
    module = target.rpartition(".")[0]
    path = ROOT.joinpath(*module.split("."))
    is_ours = is_within(module, [kind.package]) and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())
    return is_ours or is_within(module, plugins)


def _build(value: object, kind: Kind, plugins: Sequence[str], option: str, offers: Mapping[str, Callable[[], object]]) -> object:
    """Return a value of the configuration with objects in the place of all nodes that have a `_target_`."""
    if isinstance(value, list):
        return [_build(each, kind, plugins, f"{option}.{number}", {}) for number, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    fields = {key: _build(each, kind, plugins, f"{option}.{key}", {}) for key, each in value.items() if key != TARGET}
    if TARGET not in value:
        return fields
    class_ = _find_class(value[TARGET], kind, plugins, option)
    parameters = inspect.signature(class_).parameters.values()
    named = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters)
    options = [name for name in named if name not in offers]
    raise_any([
        *(f"{option}.{key} is no option of {class_.__name__}, which has {', '.join(options) or 'none'}; leave it out"
          for key in fields if key not in options and (key in offers or not takes_any)),
        *(f"{option}.{name} is missing, and {class_.__name__} needs it; give {option}.{name}=VALUE"
          for name, each in named.items() if each.default is each.empty and name not in {**fields, **offers}),
    ])  # fmt: skip
    mistyped = [f"{option}.{key} is {types}; got {_shown(value)}" for key, value in fields.items()
                if key in named and (types := _other_types(named[key].annotation, value))]  # fmt: skip
    try:
        built = class_(**fields, **{name: make() for name, make in offers.items() if name in named or takes_any})
    except UserError:
        raise  # what a class says of its options is more exact
    except Exception:
        raise_any(mistyped)
        raise
    raise_any(mistyped)
    return built


def _other_types(annotation: object, value: object) -> str | None:
    """Return, in words, the types of an option whose value has none of them; None if it has one, or they are not judged."""
    types = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if not set(types) <= TYPES.keys() or type(value) in types or (float in types and type(value) is int):
        return None
    *first, last = (word for each in types for word in TYPES[each])
    return f"{', '.join(first)} or {last}" if first else last


def _shown(value: object) -> str:
    """Return a value as it is typed."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _find_class(target: str, kind: Kind, plugins: Sequence[str], option: str) -> type:
    """Return the class of an allowed name. Raise UserError if it is none, or of another kind than may stand at the option."""
    module, _, name = target.rpartition(".")
    source = f"{option}.{TARGET}={target}"
    class_ = getattr(import_module(module, source), name, None)
    if not isinstance(class_, type):
        raise UserError(f"{source}: there is no class {name} in {module}; check its name")
    is_part = issubclass(class_, kind.parts) or is_within(class_.__module__, plugins)
    if not (option != kind.option and is_part) and (missing := kind.lacks(class_)):
        raise UserError(f"{source} is no {kind.what}: it lacks {', '.join(missing)}")
    return class_
