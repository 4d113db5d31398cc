"""Jinja templates of strangers: rendered in bounded time and memory, without a way to anything but the row.

A template may loop, choose, compare, calculate and use the filters and methods that are listed here, on what the row
holds; all of it is metered. No attribute of a Python object is ever looked up.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from jinja2 import Template, nodes
from jinja2.filters import FILTERS
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from src.data.text import metering
from src.data.text.metering import TemplateFault, metered_row, paid, pay, size_of

LONGEST_SOURCE = 2**14  # characters: templates have some hundreds

_NODES = {
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.NSRef),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem, nodes.Slice),
    *(nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword, nodes.Compare, nodes.Operand, nodes.CondExpr),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    *(nodes.Neg, nodes.Pos, nodes.Concat),
}
# Filters of Jinja's whose values are no larger than what they are made of.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "lower", "map"),
    *("max", "min", "reject", "reverse", "round", "select", "sort", "title", "trim", "truncate", "unique", "upper", "wordcount"),
)
_METHODS = {
    str: (
        *("capitalize", "count", "endswith", "find", "index", "isalpha", "isdigit", "islower", "isupper", "lower", "lstrip"),
        *("removeprefix", "removesuffix", "rfind", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip"),
        *("title", "upper"),
    ),
    list: ("count", "index"),
    dict: ("get", "items", "keys", "values"),
}
_LOOP = ("index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem")


class _Compiled(NamedTuple):
    template: Template
    variables: frozenset[str]


def render(source: str, row: Mapping[str, object]) -> str:
    """Return the text that a template makes of a row. Raise TemplateFault if it is no template, or fails on the row."""
    template = _compiled(source).template
    try:
        with metered_row():
            return "".join(map(paid, template.generate(row)))
    except TemplateFault:
        raise
    except Exception as error:  # templates compute with whatever rows hold, and fail in all ways that Python has
        raise TemplateFault(f"fails on a row ({_first_line(error)})") from error


def variables(source: str) -> frozenset[str]:
    """Return the names that a template looks up in rows. Raise TemplateFault if it is no template."""
    return _compiled(source).variables


@lru_cache(maxsize=4096)
def _compiled(source: str) -> _Compiled:
    if len(source) > LONGEST_SOURCE:
        raise TemplateFault(f"has {len(source):,} characters, and templates of at most {LONGEST_SOURCE:,} are read")
    try:
        tree = _Metering().visit(_ENVIRONMENT.parse(source))
        tree.set_environment(_ENVIRONMENT).set_lineno(1)
        names = find_undeclared_variables(tree)
        code = _ENVIRONMENT.compile(tree)
        template = _ENVIRONMENT.template_class.from_code(_ENVIRONMENT, code, dict(_ENVIRONMENT.globals))
    except TemplateFault:
        raise
    except Exception as error:  # of Jinja's, and of Python, which compiles what Jinja makes of it
        raise TemplateFault(f"cannot be read as Jinja ({_first_line(error)})") from error
    return _Compiled(template, frozenset(names))


class _Metering(NodeTransformer):
    """Puts what meters work into a syntax tree. Raises TemplateFault at parts that no template may have."""

    def visit(self, node: nodes.Node) -> nodes.Node:
        if type(node) not in _NODES:
            raise TemplateFault(f"has a part that is not read, {type(node).__name__.lower()} in line {node.lineno}")
        return super().visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateFault(f"has a loop that calls itself in line {node.lineno}, and such are not read")
        size = sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "metered", nodes.Const(size))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [part if isinstance(part, nodes.TemplateData) else _filtered(part, "string") for part in node.nodes]
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:
        self.generic_visit(node)
        node.node = _filtered(node.node, "paid")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")

    def visit_Filter(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "paid")

    visit_Add = visit_Mul = visit_Call = visit_Filter

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "paid") if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """An environment in which templates reach items of what rows hold, and the listed filters, methods and functions."""

    intercepted_binops = frozenset(("*", "%"))

    def call_binop(self, context: object, operator: str, left: object, right: object) -> object:
        if operator == "%" and isinstance(left, str):
            raise TemplateFault("formats a text with %, which is not read; use ~")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    pay(size_of(text) * max(times, 0))
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: object, attribute: str) -> object:
        function = _GROWING_METHODS.get((type(obj), attribute))
        if function:
            return partial(function, obj)
        is_method = attribute in _METHODS.get(type(obj), ())
        is_variable = isinstance(obj, Namespace) and not attribute.startswith("_")
        if is_method or (isinstance(obj, LoopContext) and attribute in _LOOP) or (is_variable and hasattr(obj, attribute)):
            return getattr(obj, attribute)
        return self._item(obj, attribute)

    def getitem(self, obj: object, argument: object) -> object:
        value = self._item(obj, argument)
        return self.getattr(obj, argument) if isinstance(value, Undefined) and isinstance(argument, str) else value

    def is_safe_callable(self, obj: object) -> bool:
        owner = type(getattr(obj, "__self__", None))
        return (
            obj in _FUNCTIONS.values()
            or (isinstance(obj, partial) and obj.func in _GROWING_METHODS.values())
            or getattr(obj, "__name__", None) in _METHODS.get(owner, ())
        )

    def _item(self, obj: object, key: object) -> object:
        if isinstance(obj, str | list | tuple | dict):
            try:
                return obj[key]
            except (TypeError, LookupError):
                pass
        return self.undefined(obj=obj, name=str(key))


def _only(values: Iterable) -> object:
    """Return the first value; promptsource draws one, and where its templates do so each row has one."""
    return next(iter(values))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


_FUNCTIONS: Mapping[str, Callable] = {"zip": zip, "range": metering.bounded_range, "namespace": Namespace}
_GROWING_METHODS = {(str, "replace"): metering.replace, (str, "join"): metering.join_by}
_ENVIRONMENT = _Environment()
_ENVIRONMENT.globals = dict(_FUNCTIONS)
_ENVIRONMENT.filters = {name: FILTERS[name] for name in _FILTERS} | {
    "string": metering.string,
    "join": metering.join,
    "replace": metering.replace,
    "choice": _only,
    "paid": metering.paid,
    "metered": metering.steps,
}
