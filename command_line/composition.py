"""Compose a configuration from overrides; what stands in the way is said in sentences, each with the nearest right name."""

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from command_line.overrides import parse_overrides, quoted, quoted_text, repetitions, shell_word
from src.errors import UserError, nearest

ROOT = Path(__file__).parent.parent
_HYDRA = threading.RLock()  # whose state is one for all threads
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
# The lines of Hydra's and OmegaConf's messages that say nothing more, or advise what does not help here.
NOISE = (
    "To append",
    "Or add",
    "full_key",
    "object_type",
    "reference_type",
    "Config search path",
    "Search path",
    "See http",
    "provider=",
)
HINTS = {"tasks": ", or name tasks themselves, as in 'DATASETS=[Digits,Arrows]'"}  # of groups that may be taken for others

OmegaConf.register_new_resolver("repository", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver("tenths", lambda top: [n / 10 for n in range(1, round(10 * top) + 1)], replace=True)

# Tasks are the user's to add to: tasks.Birds.source=... and tasks.MNIST.columns=... need no `+` before them.
ConfigStore.instance().store("any_task", OmegaConf.create({}, flags={"struct": False}))


@contextlib.contextmanager
def explained(texts: Sequence[str], name: str = "config", folders: Sequence[str] = (), sweep: bool = False) -> Iterator[None]:
    """Raise UserError with all that is wrong with overrides if the block, in which Hydra composes them, fails for that."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Hydra raises ValueError, too
        problems = composition_problems(texts, name, folders, sweep)
        if problems or isinstance(error, COMPOSITION_ERRORS):
            raise UserError(problems or one_line(error)) from error
        raise


def composition_problems(
    texts: Sequence[str], name: str = "config", folders: Sequence[str] = (), sweep: bool = False
) -> list[str]:
    """Return what is wrong with overrides, a sentence for each that cannot be read or names nothing; [] if nothing is found.

    name: of the primary configuration.
    folders: with further configurations.
    sweep: whether options may have several values.
    """
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        return [f"--config-dir={folder} is no folder; check the path" for folder in missing]
    with read_overrides(texts, name, folders) as (overrides, problems, groups):
        problems += repetitions(texts)
        sweeps = [override for override in overrides if override.is_sweep_override()]
        problems += empty_sweeps(sweeps, groups) if sweep else map(_several_values, sweeps)
        try:
            choices = [override for override in overrides if groups.get_group_options(override.key_or_group)]
            problems += [problem for override in choices for problem in groups.problems(override)]
            unknown = {each.key_or_group for each in choices if not (each.is_delete() or groups.chosen(each))}
            places = groups.places(choices)
            misplaced = {override.input_line: problem for override in choices if override.key_or_group not in unknown
                         if (problem := _misplacement(override, places))}  # fmt: skip
            problems += misplaced.values()
            values = [each for each in overrides if each not in choices and each.key_or_group.split(".")[0] not in unknown]
            removed = {override.key_or_group for override in values if override.is_delete()}
            for config in groups.configs([each for each in choices if each.input_line not in misplaced]):
                problems += filter(None, (_misfit(override, config, removed) for override in values))
        except COMPOSITION_ERRORS as error:
            is_primary = isinstance(error, MissingConfigException) and error.missing_cfg_file == name
            problems.append(f"--config-name={name}: there is no such configuration" if is_primary else one_line(error))
    return list(dict.fromkeys(problems))


@contextlib.contextmanager
def read_overrides(
    texts: Sequence[str], name: str = "config", folders: Sequence[str] = ()
) -> Iterator[tuple[list[Override], list[str], "Groups"]]:
    """Yield the overrides that can be read, a sentence for each that cannot, and the groups that they choose from.

    name, folders: as in `composition_problems`.
    """
    overrides, problems = parse_overrides(texts)
    with config_loader() as loader:
        groups = Groups(loader, name, [*_search_path(overrides), *(f"file://{os.path.abspath(folder)}" for folder in folders)])
        for override in overrides:
            override.config_loader = groups  # which patterns such as glob(T*) ask
        yield overrides, problems, groups


@contextlib.contextmanager
def separate_hydra() -> Iterator[None]:
    """Leave Hydra's state as it is in a program of the user's, whatever is composed in the block; one thread at a time."""
    with _HYDRA:
        hydra, config, base = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, VersionBase.instance().version_base
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config
            VersionBase.instance().version_base = base


@contextlib.contextmanager
def config_loader() -> Iterator[ConfigLoader]:
    """Yield the loader of the configurations of this program, for which `compose` composes in the block."""
    outer = GlobalHydra.instance().hydra  # of the run that this is asked in
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(ROOT / "config"), version_base=None):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


class Groups:
    """The groups of configurations, as method= and model= choose from.

    name: of the primary configuration.
    search_path: of further configurations, as Hydra has it.
    """

    def __init__(self, loader: ConfigLoader, name: str, search_path: Sequence[str]):
        paths = ",".join(map(quoted_text, search_path))
        self._loader, self._name, self._folders = loader, name, [f"hydra.searchpath=[{paths}]"] if paths else []

    def get_group_options(self, group: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        """Return what a group has to choose from, as Hydra's own loader does; [] if there is no such group."""
        return self._loader.get_group_options(group, results_filter, self._name, self._folders)

    def problems(self, override: Override) -> Iterator[str]:
        """Yield a sentence for each choice of an override that its group has not."""
        group, options = override.key_or_group, self.get_group_options(override.key_or_group)
        listed = ", ".join(options)
        advice = f"choose one of {listed}{HINTS.get(group, '')}"
        for value in alternatives(override):
            for choice in value if isinstance(value, list) else [value]:
                if choice in (None, ""):
                    yield f"{override.input_line} chooses no {group}; choose one of {listed}"
                elif choice not in options:
                    name = self._nearest(value, options)
                    guess = f"did you mean {shell_word(f'{override.get_key_element()}={name}')}? (all: {listed})"
                    other = None if override.package or isinstance(value, list) else self._elsewhere(choice)
                    elsewhere = f"did you mean {shell_word(other or '')}? ({group}= has {listed})"
                    yield f"there is no {group} {choice}; {elsewhere if other else guess if name else advice}"

    def _elsewhere(self, choice: object) -> str | None:
        """Return the choice as another group has it, `finetuning_mode=linear`; None if none has."""
        groups = [group for group in self.get_group_options("", ObjectType.GROUP) if group != "hydra"]
        group = next((group for group in groups if choice in self.get_group_options(group)), None)
        return group and f"{'' if group in self.places(()) else '+'}{group}={choice}"

    def chosen(self, override: Override) -> list[str]:
        """Return the choices of an override, as Hydra's grammar has them; the nearest right name for a misspelled one."""
        options = self.get_group_options(override.key_or_group)
        meant = (self._nearest(value, options) for value in alternatives(override))
        return [f"{override.get_key_element()}={each}" for each in meant if each]

    @staticmethod
    def _nearest(value: object, options: Collection[str]) -> str | None:
        """Return a choice, or a list of them, with the nearest right names; None if one is like none."""
        names = [nearest(str(choice), options) for choice in (value if isinstance(value, list) else [value])]
        if not all(names):
            return None
        return f"[{','.join(names)}]" if isinstance(value, list) else names[0]

    def places(self, overrides: Sequence[Override]) -> list[str]:
        """Return where a choice stands that may be replaced, `method` or `method@method.base`, under overrides of groups."""
        plain = [each for each in overrides if not (each.package or _is_added(each) or isinstance(each.value(), list))]
        first, *others = (list(config.hydra.runtime.choices) for config in self.configs(plain))
        return [place for place in first if all(place in each for each in others)]

    def configs(self, overrides: Sequence[Override]) -> Iterator[DictConfig]:
        """Yield the configurations that overrides of groups choose.

        Of a group with several choices each is taken in turn, with the first of the others.
        """
        by_group = [chosen for override in overrides if (chosen := self.chosen(override))]
        first = [chosen[0] for chosen in by_group]
        others = [[*first[:number], choice, *first[number + 1 :]] for number, each in enumerate(by_group) for choice in each[1:]]
        for choices in (first, *others):
            yield compose(self._name, [*self._folders, *choices], return_hydra_config=True)


def _search_path(overrides: Iterable[Override]) -> list[str]:
    """Return the folders that hydra.searchpath= names."""
    values = (override.value() for override in overrides if override.key_or_group == "hydra.searchpath")
    return [str(folder) for value in values if isinstance(value, list) for folder in value]


def alternatives(override: Override) -> list:
    """Return the values that an override gives to its option: one, or those of a sweep; [] if there are none to count."""
    if override.is_delete() or override.is_interval_sweep():
        return []
    return list(override.sweep_iterator()) if override.is_discrete_sweep() else [override.value()]


def _is_added(override: Override) -> bool:
    """Return whether an override may add an option, rather than set one that is there."""
    return override.is_add() or override.is_force_add()


def _several_values(override: Override) -> str:
    """Return a sentence on an override with several values where there is no sweep."""
    sweep = f"python main.py -m {shell_word(override.input_line)} runs with each"
    if override.value_type != ValueType.SIMPLE_CHOICE_SWEEP or override.config_loader.get_group_options(override.key_or_group):
        return f"{override.input_line} is several values: {sweep}"
    key, value = override.get_key_element(), override.get_value_string()
    forms = f"{shell_word(f'{key}=[{value}]')} is a list, and {quoted(key, value)} is text"
    return f"{override.input_line} is several values: {sweep}, {forms}"


def empty_sweeps(overrides: Iterable[Override], groups: Groups) -> list[str]:
    """Return a sentence for each override that gives no value to try: a sweep over it would be of no jobs."""
    empty = [override for override in overrides if override.is_discrete_sweep() and not alternatives(override)]
    listed = {override.key_or_group: ", ".join(groups.get_group_options(override.key_or_group)) for override in empty}
    return [
        f"{override.input_line} matches none of {listed[override.key_or_group]}; name one of them"
        if listed[override.key_or_group]
        else f"{override.input_line} gives no value to try; name some, such as {override.get_key_element()}=1,2"
        for override in empty
    ]


def _misplacement(override: Override, places: Sequence[str]) -> str | None:
    """Return a sentence on an override of a group that replaces no choice, or that adds where one is; None if it fits.

    places: as `Groups.places` returns them.
    """
    line, place = override.input_line, override.get_key_element().lstrip("+~")
    if _is_added(override):
        return f"{line} adds to a choice; type {shell_word(line.lstrip('+'))} to replace it" if place in places else None
    if place in places:
        return None
    others = [each for each in places if each.partition("@")[0] == override.key_or_group]
    near = None if override.is_delete() else nearest(place, others) or next(iter(others), None)
    guess = f"did you mean {shell_word(f'{near}={override.get_value_string()}')}?" if near else "leave it out"
    return f"{line}: there is no {place} to choose; {guess}"


def _misfit(override: Override, config: DictConfig, removed: Collection[str]) -> str | None:
    """Return a sentence on an override that a configuration does not take; None if it fits.

    removed: the options that other overrides remove first.
    """
    line, key = override.input_line, override.key_or_group
    has_value = OmegaConf.select(config, key) is not None
    if override.is_add() and has_value and key not in removed:
        return f"{line} adds an option that is there; type {shell_word(line.lstrip('+'))} to set it"
    if _is_added(override):
        return None
    if misspelling := _misspelling(override, config):
        return misspelling
    return f"{line}: {key} has no value to remove; leave it out" if override.is_delete() and not has_value else None


def _misspelling(override: Override, config: DictConfig) -> str | None:
    """Return a sentence on an override that names no option of a configuration; None if it names one."""
    node, path = config, ""
    for part in override.key_or_group.split("."):
        if OmegaConf.is_list(node) or (OmegaConf.is_dict(node) and not OmegaConf.is_struct(node)):
            return None  # tasks are the user's to add to
        if not OmegaConf.is_dict(node):
            return f"{override.input_line}: {path} has no options of its own"
        if part not in node.keys():  # noqa: SIM118, `in node` leaves out mandatory values
            return _unknown(override, part, path, config)
        node, path = OmegaConf.select(node, part), f"{path}.{part}".lstrip(".")
    return None


def _unknown(override: Override, part: str, path: str, config: DictConfig) -> str:
    """Return a sentence on an override with a `part` that the options at `path` lack, and on what was probably meant."""
    names = [name for name in map(str, OmegaConf.select(config, path) if path else config) if not name.startswith("_")]
    near = nearest(part, names)
    key = f"{path}.{near}".lstrip(".") if near else None if path else _namesake(part, config)
    rest = override.key_or_group.removeprefix(f"{path}.{part}".lstrip("."))
    guess = key and f"did you mean {shell_word(f'{key}{rest}={override.get_value_string()}')}?"
    if not path:
        return f"there is no option {part}; {guess or 'python main.py --help lists all'}"
    choices = config.hydra.runtime.choices.items()
    owner = next((choice for group, choice in choices if path in (group, group.partition("@")[2])), path)
    listed = ", ".join(names)
    return f"{owner} has no {part}; {guess or f'it has {listed}'}"


def _namesake(name: str, config: DictConfig, path: str = "") -> str | None:
    """Return the first option of this name that other options hold, dots between the names; None if there is none."""
    for each in map(str, config):
        child = OmegaConf.select(config, each) if each != "hydra" else None
        if path and each == name:
            return f"{path}.{name}"
        if OmegaConf.is_dict(child) and (found := _namesake(name, child, f"{path}.{each}".lstrip("."))):
            return found
    return None


def one_line(error: BaseException) -> str:
    """Return the message of an error of Hydra, OmegaConf or YAML as one sentence."""
    chain = [error, *([error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else [])]
    texts = (" ".join(line.strip() for line in str(each).splitlines() if not line.strip().startswith(NOISE)) for each in chain)
    return ": ".join(text.strip().rstrip(".") for text in texts if text.strip())
