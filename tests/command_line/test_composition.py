"""What is wrong with a command line is said in a sentence each, with the nearest right name."""

import shlex

import pytest

from command_line.composition import composition_problems
from command_line.config import HOLDERS, compose_config, validate
from command_line.overrides import quoted
from command_line.readers import READERS, SCORE, refuse_unread
from src.errors import UserError
from tests.helpers.processes import ROOT

METHODS, MODELS, TASKS, MODES = (
    ", ".join(sorted(path.stem for path in (ROOT / "config" / group).glob("*.yaml")))
    for group in ("method", "model", "tasks", "finetuning_mode")
)
MISSPELLED = {
    "method=ties method.kk=3": ["ties has no kk; did you mean method.k=3?"],
    "methd=ties": ["there is no option methd; did you mean method=ties?"],
    "Method=ties": ["there is no option Method; did you mean method=ties?"],
    "method=tie": [f"there is no method tie; did you mean method=ties? (all: {METHODS})"],
    "method=5": [f"there is no method 5; choose one of {METHODS}"],
    "method=": [f"method= chooses no method; choose one of {METHODS}"],
    "method=null": [f"method=null chooses no method; choose one of {METHODS}"],
    "model=ViT-B32": [f"there is no model ViT-B32; did you mean model=ViT-B-32? (all: {MODELS})"],
    "finetuning_mode=null": [f"finetuning_mode=null chooses no finetuning_mode; choose one of {MODES}"],
    "hydra/launcher=nope": ["there is no hydra/launcher nope; choose one of basic, gpu_cluster, side_by_side"],
    "num_task=8": ["there is no option num_task; did you mean num_tasks=8?"],
    "specify_lamda=0.3": ["there is no option specify_lamda; did you mean specify_lambda=0.3?"],
    "k=20": ["there is no option k; did you mean method.k=20?"],
    "xyzzy=1": ["there is no option xyzzy; python main.py --help lists all"],
    "~xyzzy": ["there is no option xyzzy; python main.py --help lists all"],
    "wandb.projekt=x": ["wandb has no projekt; it has mode"],
    "heads.sourc=prompts": ["heads has no sourc; did you mean heads.source=prompts?"],
    "num_tasks.of=3": ["num_tasks.of=3: num_tasks has no options of its own"],
    "pretraned='a=b.pt'": ["there is no option pretraned; did you mean \"pretrained='a=b.pt'\"?"],
    "method=ties,sum": ["method=ties,sum is several values: python main.py -m method=ties,sum runs with each"],
    "DATASETS=Digits,Arrows": [
        "DATASETS=Digits,Arrows is several values: python main.py -m DATASETS=Digits,Arrows runs with each, "
        "'DATASETS=[Digits,Arrows]' is a list, and \"DATASETS='Digits,Arrows'\" is text"
    ],
    "num_tasks=range(1,3)": ["num_tasks=range(1,3) is several values: python main.py -m 'num_tasks=range(1,3)' runs with each"],
    "tasks=[demo,visoin]": [f"there is no tasks visoin; did you mean 'tasks=[demo,vision]'? (all: {TASKS})"],
    "tasks=Digits": [f"there is no tasks Digits; choose one of {TASKS}, or name tasks themselves, as in 'DATASETS=["],
    "method=tyes method.agg=max": [f"there is no method tyes; did you mean method=ties? (all: {METHODS})"],
    "method=standard": [f"there is no method standard; did you mean finetuning_mode=standard? (method= has {METHODS})"],
    "model=demo_text": ["there is no model demo_text; did you mean +experiment=demo_text? (model= has "],
    "tasks=lines_table2": [f"there is no tasks lines_table2; did you mean +experiment=lines_table2? (tasks= has {TASKS})"],
    "tasks=[demo,linear]": ["there is no tasks linear; did you mean 'tasks=[demo,lines]'?"],
    "method=dare method@method.base=linear": ["there is no method linear; choose one of "],
    "method=config": [f"there is no method config; choose one of {METHODS}"],
    "method=nope method.agg=max": [f"there is no method nope; choose one of {METHODS}"],
    "method=ties methd=1 num_task=3 model=ViT-B32 pretrained=a=b": [
        "pretrained=a=b cannot be read",
        "there is no model ViT-B32",
        "there is no option methd",
        "there is no option num_task",
    ],
    "hydra.mode=sweep": ["Error merging override hydra.mode=sweep: Invalid value 'sweep', expected one of [RUN, MULTIRUN]"],
    "method@methd.base=ties": ["method@methd.base=ties: there is no method@methd.base to choose; did you mean method=ties?"],
    "method=tall_mask method@method.bse=ties": [
        "method@method.bse=ties: there is no method@method.bse to choose; did you mean method@method.base=ties?"
    ],
    "~method@foo": ["~method@foo: there is no method@foo to choose; leave it out"],
    "~output": ["~output: output has no value to remove; leave it out"],
    "specify_lambda=.2 +specify_lambda=.3": ["specify_lambda is given 2 times; give it once"],
    "+save_minutes=3": ["+save_minutes=3 adds an option that is there; type save_minutes=3 to set it"],
    "+method=ties": ["+method=ties adds to a choice; type method=ties to replace it"],
    "++method=ties": ["++method=ties adds to a choice; type method=ties to replace it"],
    "~save_minutes +save_minutes=3 methd=ties": ["there is no option methd; did you mean method=ties?"],
}  # fmt: skip


@pytest.mark.parametrize("line", MISSPELLED)
def test_each_mistake_is_a_sentence_with_the_nearest_right_name(line):
    with pytest.raises(UserError) as error:
        compose_config(line.split())
    problems = error.value.problems
    assert len(problems) == len(MISSPELLED[line]), problems
    for problem, expected in zip(problems, MISSPELLED[line]):
        assert problem.startswith(expected) and "\n" not in problem


def test_every_choice_of_a_sweep_is_looked_at():
    texts = ["method=sum,ties,tie", "method.agg=max,mean"]
    assert composition_problems(texts, sweep=True) == [
        f"there is no method tie; did you mean method=ties? (all: {METHODS})",
        "sum has no agg; it has k, scope, grid, apply_svc, svc_alpha, apply_lines, step_order, depth_pattern, space",
    ]
    assert not composition_problems(["method=glob(ties*)", "method.agg=max,mean", "num_tasks=range(1,3)"], sweep=True)


def test_each_override_that_is_suggested_for_one_that_replaces_options_can_be_typed():
    for holder, (meant, example) in HOLDERS.items():
        needed = {"method.base": ["method=tall_mask"], "finetuning_mode.lora": ["finetuning_mode=lora"]}.get(holder, [])
        validate(compose_config([*needed, *shlex.split(quoted(meant, example))]))


def test_configurations_of_the_users_own_are_known(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("names: [Birds]\nBirds: {source: birds}\n")
    assert not composition_problems(["tasks=mine"], folders=[str(tmp_path)])
    assert "did you mean tasks=mine?" in composition_problems(["tasks=min"], folders=[str(tmp_path)])[0]
    (missing,) = composition_problems(["tasks=mine"], folders=[str(tmp_path / "none")])
    assert missing == f"--config-dir={tmp_path / 'none'} is no folder; check the path"
    assert composition_problems([], "nope") == ["--config-name=nope: there is no such configuration"]


@pytest.mark.parametrize(
    "line, sentence",
    {
        "+foo=1": "there is no option foo",
        "++foo.bar=1": "there is no option foo",
        "wandb=null": "wandb=null replaces all options of wandb; set one, as in wandb.mode=disabled",
        "wandb=online": "wandb=online replaces all options of wandb; did you mean wandb.mode=online?",
        "model.family=x": "model.family=x replaces all options of model.family; set one, as in model=ViT-demo",
        "model.family=files": "model.family=files replaces all options of model.family; did you mean model=files?",
        "model.recipe=null": "model.recipe=null replaces all options of model.recipe",
        "method=tall_mask method.base=ties": "method.base=ties replaces all options of method.base; did you mean method@method.base=ties?",
        "finetuning_mode=lora finetuning_mode.lora=null": "finetuning_mode.lora=null replaces all options",
        "tasks.Digits=5": "tasks.Digits=5 replaces all options of tasks.Digits; set one, as in tasks.Digits.source=FOLDER",
        "~method": "method= takes one name, as in method=ties",
        "method=[sum,ties]": "method= takes one name; python main.py -m method=sum,ties sweeps over several",
        "~heads": "~heads removes what the program reads; leave it out",
        "heads.source=nope": "heads.source is published, prompts or null; got nope",
        "heads.parity=5": "heads.parity is true or false; got 5",
        "model.finetune_missing=5": "model.finetune_missing is true, false or null; got 5",
        "model.name=null": "model.name is a name; got None",
        "model=open_clip": "model.name is needed; give model.name=VALUE",
        "cache_dir=${nope}": "cache_dir=${nope} takes a value that is not there; check the name in ${}, or type",
        "output=${output}": "output=${output} takes a value that is not there",
        "+tasks.x=${x}": "+tasks.x=${x} takes a value that is not there",
        "lineages=5": "lineages is a file, or a list of files",
        "specify_lambda=0.3 n_eval_points=3": "n_eval_points is for a search",
        "specify_lambda=0.3 search=golden": "search is for a search",
        "+method.use_ties=True": "method.use_ties=True is for method=tall_mask",
    }.items(),
)
def test_options_that_fit_nothing_are_refused_before_anything_is_loaded(line, sentence):
    with pytest.raises(UserError) as error:
        validate(compose_config(line.split()))
    assert any(sentence in problem for problem in error.value.problems), error.value.problems


@pytest.mark.parametrize(
    "line", ["~save_minutes +save_minutes=3", "+tasks.Birds.source=x", "method=consensus ++method.use_ties=True"]
)
def test_what_may_be_added_is_added(line):
    validate(compose_config(line.split()))


def test_every_option_has_its_readers_and_every_reader_option_is_there():
    config = compose_config([])
    assert set(config) == {name for name in READERS if "." not in name}
    assert all(name.split(".")[0] in config for name in READERS)


@pytest.mark.parametrize(
    "command, line, unread",
    [
        *((command, "method=sum output=x num_tasks=2", {"method", "output"}) for command in sorted(SCORE - {"main.py"})),
        ("main.py", "method=ties n_eval_points=3 method.depth_pattern=x", {"method.depth_pattern"}),
        ("finetune.py", "batch_size=64 method.k=20 tasks.Digits.epochs=3 model.recipe.lr=1", {"batch_size", "method"}),
        (
            "main.py with model=files",
            "model=files precision=bf16 search=golden method.depth_pattern=x output=y",
            {"precision", "search"},
        ),
    ],
)
def test_typed_options_that_a_command_does_not_read_are_refused(command, line, unread):
    compose_config(line.split())
    with pytest.raises(UserError) as error:
        refuse_unread(command)
    assert {problem.split("does not read ")[1].split(";")[0] for problem in error.value.problems} == unread
