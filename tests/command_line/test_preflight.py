"""What a run lacks is named with commands that bring it, for this very run."""

import shlex

import pytest
from omegaconf import OmegaConf

import finetune
from command_line.config import compose_config, config_folders, validate
from command_line.flags import RECIPE, TRAINING, parse_flags
from command_line.overrides import quoted
from command_line.paths import paths_of
from command_line.preflight import check_inputs, selected_tasks
from command_line.readers import FINETUNE, refuse_unread
from src.errors import UserError
from tests.command_line.test_overrides import odd_texts


def missing(texts):
    """Return the sentence on missing weights of a run with these overrides, and the run's configuration."""
    config = compose_config(["download=true", *texts])
    with pytest.raises(UserError) as error:
        check_inputs(config, paths_of(config), selected_tasks(config))
    (sentence,) = (problem for problem in error.value.problems if problem.startswith("no fine-tuned weights"))
    return sentence, config


def finetuning_command(sentence):
    return sentence[sentence.index("python finetune.py") :].partition(", or name yours with ")[0]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a folder"
    for group, name, text in (
        ("tasks", "mine", "names: [Birds, Fish]\nBirds: {source: birds, templates: ['a {}.']}\nFish: {source: fish, templates: ['a {}.']}\n"),
        ("model", "own", "defaults: [ViT-B-32]\nname: own\n"),
    ):  # fmt: skip
        (folder / group).mkdir(parents=True)
        (folder / group / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    "texts",
    [
        ["model=ViT-B-32", "DATASETS=[Cars,MNIST]", "method=ties", "method.k=10", "specify_lambda=0.3", "precision=bf16"],
        ["model=ViT-B-32", "num_tasks=2", "model_location=some where", "+tasks.Cars.source=x", "device=cpu"],
        ["model=open_clip", "model.name=ViT-B-16", "model.pretrained=laion", "model.family.quick_gelu=true", "DATASETS=[DTD]"],
        ["model=open_clip", "model.name=mine", "model.pretrained='a=b (1).pt'", "model.family.like=openai", "num_tasks=1"],
        ["model=ViT-B-32", "finetuning_mode=lora", "finetuning_mode.lora.rank=4", "num_tasks=1", "plugins=[x.py]"],
        ["model=ViT-B-32", "finetuning_mode=posthoc", "num_tasks=3", "finetuned={DTD: x.pt}"],
        ["tasks=mine", "model=own", "DATASETS=[Fish]", "model.recipe.lr=1e-4"],
        ["tasks=lines", "model=ViT-L-14", "num_tasks=1", "pretrained=base.pt", "cache_dir=c", "results_dir=r"],
    ],
)
@pytest.mark.parametrize("folders", [1, 2])
def test_the_fine_tuning_command_is_of_this_very_run(texts, folders, folder, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    paths = [folder, tmp_path / "other"][:folders]
    texts = [*shlex.split(quoted("hydra.searchpath", [f"file://{path}" for path in paths])), *texts]
    texts = [text.replace("some where", "'some where'") for text in texts]
    sentence, config = missing(texts)
    sources, of_run = config_folders(), paths_of(config)
    names = [task.name for task in selected_tasks(config) if task.name not in of_run.user_finetuned]
    assert sources == [str(path) for path in paths]
    monkeypatch.setattr("sys.argv", shlex.split(finetuning_command(sentence))[1:])
    overrides, _ = parse_flags(finetune.__doc__, TRAINING, RECIPE)
    again = compose_config(overrides)
    validate(again)
    refuse_unread(FINETUNE)
    assert [task.name for task in selected_tasks(again)] == names and config_folders() == sources
    assert (again.model, again.plugins, again.pretrained) == (config.model, config.plugins, config.pretrained)
    for name in names:
        assert paths_of(again).finetuned(name) == of_run.finetuned(name)
        assert again.tasks[name] == config.tasks[name]
    assert OmegaConf.select(again, "finetuning_mode.lora") == OmegaConf.select(config, "finetuning_mode.lora")


def test_odd_names_come_back_from_the_command_as_they_were(monkeypatch):
    for text in filter(str.isprintable, odd_texts(40)):
        name = "odd" + text.replace("/", "_")
        (typed,) = shlex.split(quoted("model.pretrained", name))
        sentence, config = missing(["model=open_clip", "model.name=x", typed, "num_tasks=1"])
        monkeypatch.setattr("sys.argv", shlex.split(finetuning_command(sentence))[1:])
        overrides, _ = parse_flags("", TRAINING, RECIPE)
        assert compose_config(overrides).model.pretrained == config.model.pretrained == name


@pytest.mark.parametrize(
    "texts, offer",
    [
        (["model=ViT-B-32", "DATASETS=[Cars]"], "--model=ViT-B-32 --kind=checkpoints --model-location=checkpoints, or python"),
        (["model=ViT-B-32", "DATASETS=[Cars,Digits]"], "--kind=checkpoints --model-location=checkpoints for Cars, or python"),
        (["model=ViT-B-32", "DATASETS=[Cars]", "model_location='a b'"], "'--model-location=a b', or python"),
        (
            ["model=t5-large-lm-adapt", "DATASETS=[paws]"],
            "--model=t5-large-lm-adapt --model-location=checkpoints, which says where",
        ),
        (["model=t5-large-lm-adapt", "DATASETS=[paws]", "finetuning_mode=lora"], None),
        (["model=t5-base", "DATASETS=[paws]"], None),
        (["model=ViT-B-32", "DATASETS=[Digits]"], None),
        (["model=ViT-B-32", "DATASETS=[Cars]", "model.name=mine"], None),
        (["model=ViT-B-32", "DATASETS=[Cars]", "finetuning_mode=linear"], None),
        (["model=open_clip", "model.name=ViT-B-16", "model.pretrained=x", "DATASETS=[Cars]"], None),
    ],
)
def test_a_download_is_offered_for_what_is_published_alone(texts, offer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence, _ = missing(texts)
    assert (offer in sentence) if offer else "download_checkpoints" not in sentence
