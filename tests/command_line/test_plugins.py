"""What `_target_` may name, and what is said where it may not, or where the user's own code has an error."""

import sys
from types import ModuleType

import pytest
from omegaconf import OmegaConf, open_dict

from command_line import plugins
from command_line.build import FAMILY, build_method, build_mode, build_recipe
from command_line.config import compose_config
from command_line.console import user_message
from command_line.instantiate import instantiate
from command_line.plugins import CodeError, load_plugins
from src.errors import UserError
from src.merging.method import Method
from tests.helpers.processes import ROOT

METHODS = sorted(path.stem for path in (ROOT / "config" / "method").glob("*.yaml"))
PLUGIN = """
import subprocess
from dataclasses import dataclass
from subprocess import Popen

from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True)
class Part:
    weight: float


@dataclass(frozen=True, kw_only=True)
class First(Searched):
    parts: list[Part] = ()
    broken: bool = False

    def __post_init__(self):
        if self.broken:
            raise TypeError("this is the plugin's")

    def __call__(self, inputs):
        return MergeFamily.shared(inputs.tasks, next(iter(inputs.vectors.values())))


class Nothing:
    pass


@dataclass(frozen=True, kw_only=True)
class Unfinished(Searched):
    pass
"""
REFUSED_BY_NAME = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "src.runtime.files._remove",
    "src.runtime.files.write_json",
    "src.merging.ties.torch.load",
    "src.merging..ties.Ties",
    "src.merging",
    "Ties",
    "src.models.clip.Clip",
    "src.models.modes.Mode",
    "stranger.First",
    3,
    None,
    {"a": 1},
]
REFUSED = [
    *REFUSED_BY_NAME,
    "src.merging.method.replace",
    "src.merging.method.UserError",
    "src.merging.tall_mask.Mode",
    "first.Popen",
    "first.subprocess.Popen",
    "first.Part",
    "first.Nothing",
    "first.Unfinished",
    "first.Missing",
    "first.missing.Missing",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is on no path, with a plugin that plugins= names, and a module of a stranger's that it does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_modules", set())
    plugins._find_plugin.cache_clear()
    (tmp_path / "first.py").write_text(PLUGIN)
    (tmp_path / "stranger.py").write_text("open('executed', 'w').close()\n" + PLUGIN)
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]
    assert not (tmp_path / "executed").exists()


def config_of(*overrides, **method):
    config = compose_config(list(overrides))
    with open_dict(config):
        config.method.update(method)
    return config


def first(**method):
    return config_of("method=average", "plugins=[first.py]", _target_="first.First", grid=[1.0], **method)


@pytest.mark.parametrize("target", REFUSED, ids=str)
def test_only_methods_of_this_program_and_of_plugins_are_built_as_methods(target, folder):
    with pytest.raises(UserError, match=r"method\._target_"):
        build_method(config_of("plugins=[first.py]", _target_=target, k=100))


@pytest.mark.parametrize("target", REFUSED_BY_NAME, ids=str)
@pytest.mark.parametrize("where", ["base", "grid", "deep"])
def test_what_stands_in_an_option_is_checked_too(target, where, folder, monkeypatch):
    monkeypatch.setattr("command_line.instantiate.import_module", None)  # judged before anything is imported
    node = {"_target_": target, "_args_": ["touch executed"]}
    method = {"grid": [node]} if where == "grid" else {where: node if where == "base" else {"deep": [[node]]}}
    with pytest.raises(UserError, match=rf"method\.{where}[\w.]*_target_") as error:
        build_method(config_of("method=tall_mask", **{"own_base": None, **method}))
    if where != "base":
        assert any("_args_" in problem for problem in error.value.problems)


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_"])
def test_hydras_own_keys_are_refused(key):
    with pytest.raises(UserError, match=f"method.{key} is an option of Hydra's"):
        build_method(config_of(**{key: True}))


@pytest.mark.parametrize(
    "target", ["os.system", "src.merging.ties.Ties", "src.training.recipe.Recipe", "src.models.modes.LowRank"]
)
def test_modes_and_recipes_are_of_their_kind(target):
    config = config_of()
    config.finetuning_mode._target_ = target
    with pytest.raises(UserError, match=r"finetuning_mode\._target_"):
        build_mode(config)
    config.model.recipe._target_ = target.replace("training.recipe.Recipe", "models.modes.Mode")
    with pytest.raises(UserError, match=r"model\.recipe\._target_"):
        build_recipe(config, "Digits")


def test_a_plugin_is_built_with_its_parts(folder):
    method = build_method(first(parts=[{"_target_": "first.Part", "weight": 2}]))
    assert isinstance(method, Method) and type(method).__module__ == "first" and method.parts[0].weight == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parts": [{"_target_": "first.Part", "weight": "two"}]}, "method.parts.0.weight is a number; got two"),
        ({"parts": [{"_target_": "first.Part", "weight": True}]}, "method.parts.0.weight is a number; got true"),
        ({"broken": None}, "method.broken is true or false; got null"),
        ({"broken": 1}, "method.broken is true or false; got 1"),  # by its type, not by what the plugin raises for it
    ],
)
def test_a_value_of_another_type_than_its_option_has_is_refused(options, sentence, folder):
    with pytest.raises(UserError) as error:
        build_method(first(**options))
    assert error.value.problems == [sentence]


@pytest.mark.parametrize(
    ("text", "sentence"),
    {
        "finetuning_mode.name=null": "finetuning_mode.name is text; got null",
        "finetuning_mode.files=3": "finetuning_mode.files is text; got 3",
        "finetuning_mode.trains=null": "finetuning_mode.trains is all, attention, attention+bias, mlp or all-linear; got None",
    }.items(),
)
def test_what_a_class_says_of_its_options_comes_first(text, sentence):
    with pytest.raises(UserError) as error:
        build_mode(compose_config([text]))
    assert error.value.problems == [sentence]


def test_options_of_a_model_are_judged_by_their_types():
    offers = {name: lambda: None for name in ("name", "device", "heads", "pixels")}
    family = {"_target_": "src.models.clip.Clip", "architecture": None, "pretrained": 5, "quick_gelu": 5}
    with pytest.raises(UserError) as error:
        instantiate(family, FAMILY, offers=offers)
    assert error.value.problems == [
        "model.family.architecture is text; got null",
        "model.family.pretrained is text or null; got 5",
        "model.family.quick_gelu is true, false or null; got 5",
    ]


def test_a_package_and_an_installed_module_are_plugins(folder):
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "inner.py").write_text(PLUGIN)
    config = config_of("method=average", "plugins=[package,tests.helpers]", _target_="package.inner.First", grid=[1.0])
    assert type(build_method(config)).__name__ == "First"
    assert load_plugins(config) == ["package", "tests.helpers"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[nope.py]", ["nope.py", "nothing is there"]),
        ("[folder/nope]", ["folder/nope", "nothing is there"]),
        ("[nope]", ["nope", "neither such a module nor such a file"]),
        ("[placeless]", ["placeless", "neither such a module nor such a file"]),
        ("[tests.nope]", ["tests.nope", "no module"]),
        ("[odd-name.py]", ["odd-name.py", "rename"]),
        ("[json.py]", ["json.py", "another module"]),
        ("[nope.py,other.py]", ["nope.py", "other.py"]),
        ("3", ["plugins lists"]),
        ("[3]", ["plugins lists"]),
    ],
)
def test_a_plugin_that_cannot_be_found_is_named(given, words, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "placeless", ModuleType("placeless"))
    for name in ("odd-name.py", "json.py"):
        (folder / name).write_text("")
    with pytest.raises(UserError) as error:
        load_plugins(config_of(f"plugins={given}"))
    for word in words:
        assert word in str(error.value)


def test_a_configuration_file_names_no_plugins(folder):
    config = compose_config([])
    config.plugins = ["stranger.py"]
    with pytest.raises(UserError, match="command line only"):
        build_method(config)


ERRORS = {
    "import": "import nothing_of_this_name\n",
    "syntax": "x = 1\ndef broken(:\n",
    "name": "x = 1\nundefined_name\n",
    "value": "int('x')\n",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_a_plugin_is_shown_where_it_is(kind, folder):
    (folder / "broken.py").write_text(ERRORS[kind])
    with pytest.raises(CodeError) as error:
        build_method(config_of("plugins=[broken.py]"))
    (text,) = user_message(error.value)
    line = ERRORS[kind].count("\n")
    assert text.startswith("broken has an error of its own") and f'File "{folder}/broken.py", line {line}' in text
    assert ERRORS[kind].splitlines()[-1] in text and "importlib" not in text and "command_line" not in text


def test_an_error_in_a_plugins_class_is_its_own_and_one_of_ours_is_no_users(folder, inputs, monkeypatch):
    broken = first(broken=True)
    with pytest.raises(TypeError) as error:
        build_method(broken)
    assert "first.py" in user_message(error.value)[0] and "this is the plugin's" in user_message(error.value)[0]
    broken.method.broken = False
    method = build_method(broken)
    with pytest.raises(AttributeError) as error:
        method(None)
    assert "in __call__" in user_message(error.value)[0]
    monkeypatch.setattr("src.merging.ties.Ties.__post_init__", lambda self: len(3))
    with pytest.raises(TypeError) as error:
        build_method(config_of("method=ties"))
    assert user_message(error.value) is None


def test_options_that_a_class_does_not_have_or_lacks_are_named():
    with pytest.raises(UserError) as error:
        build_method(config_of("method=ties", kk=3, other=4))
    assert [problem.split(";")[0] for problem in error.value.problems] == [
        f"method.{key} is no option of Ties, which has grid, k, agg, scope" for key in ("kk", "other")
    ]
    config = config_of("method=ties")
    with open_dict(config):
        del config.method.agg
    with pytest.raises(UserError, match=r"method\.agg is missing"):
        build_method(config)


ODD = ["x", "", None, True, -1, 0, 3.5, float("nan"), float("inf"), [], [1], ["x"], [None], {}, {"a": 1}, {"base": 3}, 10**30]


@pytest.mark.parametrize("name", METHODS)
def test_every_odd_value_of_every_option_is_a_sentence(name):
    """No error of another kind: such a one would be shown as a bug."""
    config = compose_config([f"method={name}"])
    OmegaConf.set_struct(config, False)
    for option in [key for key in config.method if key != "_target_"]:
        kept = config.method._get_node(option)
        for value in ODD:
            config.method[option] = value
            try:
                build_method(config)
            except UserError as error:
                assert all(problem and "\n" not in problem for problem in error.problems)
        config.method[option] = kept
