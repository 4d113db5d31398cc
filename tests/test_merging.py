"""`merge`, the function: equal to the command to the bit, of whatever Python programs hold."""

import inspect
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from command_line.config import compose_config, validate
from command_line.files import merge_files
from merging import merge
from src.errors import UserError
from src.merging.engine.statistics import SHAPES
from src.state_dict import Lazy
from tests.conftest import random_statistic, tiny_models
from tests.helpers.processes import ROOT, run_script
from tests.merging.test_methods import VARIANTS, build

OPTIONS = {"consensus": {"mask_lambda": 0.4}}  # that a method needs where there is no validation data
MERGING = [
    (name, steps)
    for name, steps in VARIANTS
    if (method := build(name, steps, *(["method.weights=x"] if name == "given" else []))).needs_models
    and not method.unlabelled_split
    and (not steps or name == "sum")  # what comes after a merge is the same code for all
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of two fine-tuned copies of a pre-trained model, base.safetensors, with statistics of every kind."""
    folder = tmp_path_factory.mktemp("files")
    pretrained, finetuned = tiny_models(2)
    for name, model in {"base": pretrained, **finetuned}.items():
        save_file(model, folder / f"{name}.safetensors")
    for kind in SHAPES:
        for task in finetuned:
            save_file(dict(random_statistic(pretrained, kind, task)), folder / f"{task}.{kind}.safetensors")
    return folder


def in_memory(folder):
    pretrained, *finetuned = (load_file(folder / f"{name}.safetensors") for name in ("base", "task0", "task1"))
    return pretrained, dict(zip(("task0", "task1"), finetuned))


def coefficient_of(name: str, steps: str) -> float | None:
    return 0.7 if len(build(name, steps).coefficients(2)) > 1 else None


def assert_equal(merged, expected):
    assert list(merged) == list(expected)
    for key, leaf in expected.items():
        assert merged[key].dtype == leaf.dtype and torch.equal(merged[key], leaf), key


@pytest.mark.parametrize(
    "name,steps,output_kind",
    [
        *((*each, "model") for each in MERGING),
        ("ties", "lines", "task_vector"),
        ("average", "", "task_vector"),
        ("TSVC", "", "task_vector"),
    ],
)
def test_what_is_returned_is_what_the_command_writes(name, steps, output_kind, files, tmp_path):
    method, coefficient = build(name, steps), coefficient_of(name, steps)
    output = tmp_path / ("out" if method.per_task else "out.safetensors")
    typed = [f"method={name}", f"output={output}", f"output_kind={output_kind}", "model=files"]
    typed += [f"method.apply_{step}=True" for step in steps.split()]
    typed += [f"method.{key}={value}" for key, value in OPTIONS.get(name, {}).items()]
    typed += [] if coefficient is None else [f"specify_lambda={coefficient}"]
    typed += [f"pretrained={files}/base.safetensors", f"finetuned=[{files}/task0.safetensors,{files}/task1.safetensors]"]
    statistics = [f"{files}/task{number}.{kind}.safetensors" for kind in method.needs for number in range(2)]
    config = compose_config([*typed, f"statistics=[{','.join(statistics)}]"])
    validate(config)
    merge_files(config)
    pretrained, finetuned = in_memory(files)
    by_kind = {kind: {task: random_statistic(pretrained, kind, task) for task in finetuned} for kind in method.needs}
    options = {
        "coefficient": coefficient,
        **dict.fromkeys(steps.split(), True),
        "output_kind": output_kind,
        **OPTIONS.get(name, {}),
    }
    merged = merge(name, pretrained, finetuned, statistics=by_kind, **options)
    if method.per_task:
        assert list(merged) == list(finetuned)
        for task, model in merged.items():
            assert_equal(model, {key: load_file(output / f"{task}.safetensors")[key] for key in model})
    else:
        assert_equal(merged, {key: load_file(output)[key] for key in merged})
    paths = {task: files / f"{task}.safetensors" for task in finetuned}
    again = tmp_path / f"again{output.suffix}"
    assert merge(name, files / "base.safetensors", paths, statistics=statistics, output=again, **options) == again
    for file in [output] if output.is_file() else output.iterdir():
        assert file.read_bytes() == (again / file.name if again.is_dir() else again).read_bytes()


def test_the_script_writes_what_the_example_returns(files, tmp_path):
    pretrained, finetuned = in_memory(files)
    done = run_script("main.py", "model=files", f"pretrained={files}/base.safetensors", "method=ties", "method.k=30", "method.agg=sum",
                      f"finetuned=[{files}/task0.safetensors,{files}/task1.safetensors]", "method.apply_lines=True",
                      "specify_lambda=1.0", "output=out.safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = merge("ties", pretrained, finetuned, coefficient=1.0, k=30, agg="sum", lines=True)
    expected = load_file(tmp_path / "out.safetensors")
    assert_equal(merged, {key: expected[key] for key in merged})


def test_a_bundle_and_its_models_are_those_of_the_command(files, tmp_path):
    pretrained, finetuned = in_memory(files)
    folder = merge("tall_mask", pretrained, finetuned, coefficient=0.4, output=tmp_path / "b", output_kind="bundle")
    models = merge("tall_mask", pretrained, finetuned, coefficient=0.4)
    for task, model in models.items():
        assert_equal(merge("interpolate", pretrained, [folder / task], weights=[1]), model)
    loaded = merge("tall_mask", pretrained, finetuned, load_mask=folder)
    for task, model in models.items():
        assert_equal(loaded[task], dict(model))


def test_base_is_chosen_by_its_name_and_options_in_it_by_theirs(files):
    pretrained, finetuned = in_memory(files)
    plain, chosen, trimmed = (merge("tall_mask", pretrained, finetuned, coefficient=0.4, **options)["task0"]["blocks.0.w"]
                              for options in ({}, {"base": "ties"}, {"base": "ties", "base.k": 60}))  # fmt: skip
    assert not torch.equal(plain, chosen) and not torch.equal(chosen, trimmed)
    by_flag = merge("tall_mask", pretrained, finetuned, coefficient=0.4, base={"k": 50})["task0"]["blocks.0.w"]
    assert not torch.equal(by_flag, plain)


def odd(model):
    """Return a state dict as programs hold it: parameters in other strides, tied, expanded, in bf16, complex conjugates."""
    weight = nn.Parameter(model["blocks.0.w"].T.contiguous().T)
    other = nn.Parameter(model["embed.weight"].repeat_interleave(2, 1)[:, ::2])
    complex_leaf = torch.complex(model["blocks.1.w"], model["blocks.2.w"])
    return {
        "blocks.0.w": weight,
        "blocks.0.tied": weight,
        "embed.weight": other,
        "half": model["head.bias"].bfloat16().requires_grad_(),
        "spectral": complex_leaf.conj(),
        "imaginary": complex_leaf.conj().imag,
        "constant": torch.ones(()).expand(3, 4),
        "empty": torch.empty(0, 3),
        "positions": model["positions"],
    }


def plain(model):
    return {
        key: leaf.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        for key, leaf in model.items()
    }


@pytest.mark.parametrize("name", ["sum", "ties", "TSVM", "iso_c", "tall_mask", "TSVC", "consensus"])
def test_tensors_of_every_kind_merge_as_plain_ones_do_and_are_not_edited(name):
    pretrained, finetuned = tiny_models(2)
    models = [odd(pretrained), *map(odd, finetuned.values())]
    before = [plain(model) for model in models]

    def merged_of(base, *others):
        merged = merge(name, base, others, coefficient=coefficient_of(name, ""), **OPTIONS.get(name, {}))
        return merged["model2"] if name in ("tall_mask", "TSVC") else merged

    merged = merged_of(*models)
    expected = dict(merged_of(*before))
    assert_equal(merged, expected)
    for key, leaf in merged.items():
        assert not leaf.requires_grad and leaf.is_contiguous() and leaf.dtype == models[0][key].dtype
        assert leaf.untyped_storage().nbytes() == leaf.nbytes, f"{key} is a view of other memory"
        leaf.zero_()
    assert_equal(merged, expected)  # computed anew
    for model, kept in zip(models, before):
        assert all(torch.equal(model[key], leaf) for key, leaf in kept.items()) and models[0]["blocks.0.w"].grad is None


def test_entries_of_a_file_and_of_a_vector_have_memory_of_their_own(files):
    pretrained, finetuned = in_memory(files)
    for base, kind in ((files / "base.safetensors", "model"), (pretrained, "task_vector")):
        merged = merge("TSVM", base, finetuned, coefficient=1, output_kind=kind)
        expected = dict(merge("TSVM", base, finetuned, coefficient=1, output_kind=kind))
        for leaf in merged.values():
            leaf.zero_()
        assert_equal(merged, expected)


def test_a_module_takes_the_merged_model_and_stays_trainable():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    pretrained = plain(model.state_dict())
    finetuned = {}
    for task in ("cars", "dtd"):
        model.load_state_dict(pretrained)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        finetuned[task] = plain(model.state_dict())
    model.load_state_dict(merge("average", pretrained, finetuned))
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model[0].weight, (finetuned["cars"]["0.weight"] + finetuned["dtd"]["0.weight"]) / 2)


def test_an_entry_is_computed_when_it_is_read_and_merges_are_merged(files):
    pretrained, finetuned = in_memory(files)
    read = []

    def recorded(model):
        return Lazy({key: leaf.to("meta") for key, leaf in model.items()}, lambda key: (read.append(key), model[key])[1])

    merged = merge("sum", recorded(pretrained), {task: recorded(model) for task, model in finetuned.items()}, coefficient=0.3)
    read.clear()
    assert torch.equal(merged["frozen.weight"], pretrained["frozen.weight"]) and set(read) == {"frozen.weight"}
    nested = merge("average", pretrained, {"both": merged, "task0": files / "task0.safetensors"})
    by_hand = (merged["embed.weight"] + finetuned["task0"]["embed.weight"]) / 2
    torch.testing.assert_close(nested["embed.weight"], by_hand)
    assert nested["positions"].dtype == torch.int64


def test_what_the_command_prints_is_warned_of_and_nothing_is_printed(capsys):
    base = {
        "blocks.0.w": torch.randn(3, 3),
        "blocks.1.w": torch.randn(3, 3),
        "seen": torch.tensor(1),
        "rotary.inv_freq": torch.ones(2),
    }
    tuned = {key: leaf + 1 for key, leaf in base.items()}
    wrapped = {f"module.{key}": leaf for key, leaf in tuned.items() if key != "rotary.inv_freq"}
    with pytest.warns(UserWarning) as caught:
        merged = merge("sum", base, {"a": wrapped, "b": base, "c": wrapped}, coefficient=1)
    assert [str(each.message) for each in caught] == [
        "b is the pre-trained model itself: its task vector is zero",
        "c is the same state dict as a: it counts once more",
        "a: read without regard to module in names, which wrappers add",
        "a: has no rotary.inv_freq, taken from the pre-trained model",
        "c: read without regard to module in names, which wrappers add",
        "c: has no rotary.inv_freq, taken from the pre-trained model",
        "not merged, but kept as in the pre-trained model, though fine-tuning changed them: seen",
    ]
    assert {each.filename for each in caught} == {__file__}
    torch.testing.assert_close(merged["blocks.0.w"], base["blocks.0.w"] + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge("sum", base, {"a": {**tuned, "seen": base["seen"]}}, coefficient=1)["blocks.0.w"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ties", "iso_c"])
@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.device("meta")])
def test_modes_of_torch_that_are_on_in_a_program_change_nothing(name, mode, files):
    pretrained, finetuned = in_memory(files)
    expected = dict(merge(name, pretrained, finetuned, coefficient=0.7))
    merged = merge(name, pretrained, finetuned, coefficient=0.7)
    with mode():
        assert_equal(merged, expected)
        merged = merge(name, pretrained, finetuned, coefficient=0.7)
    assert_equal(merged, expected)


def test_numbers_of_numpy_and_torch_are_numbers(files):
    pretrained, finetuned = in_memory(files)
    numpy = torch.tensor([20.0, 0.7], dtype=torch.float64).numpy()
    merged = merge(
        "ties", pretrained, finetuned, k=numpy[0], coefficient=torch.tensor(0.7, dtype=torch.float64), device=torch.device("cpu")
    )
    assert_equal(merged, dict(merge("ties", pretrained, finetuned, k=20, coefficient=float(numpy[1]))))


MODEL = {"w": torch.ones(2, 2)}
ERRORS = {
    "an unknown method": ({"method": "tyes"}, ["there is no method tyes; did you mean method=ties?"]),
    "an option of none": ({"kk": 20}, ["ties has no kk; did you mean method.k=20?"]),
    "an option of another method": ({"rank_fraction": 0.5}, ["ties has no rank_fraction; it has"]),
    "k out of range": ({"k": 200}, ["method.k of ties", "200"]),
    "no coefficient": ({"coefficient": None}, ["method=ties", "coefficient=NUMBER"]),
    "a coefficient that is no number": ({"coefficient": "much"}, ["specify_lambda is a number; got much"]),
    "lines on average": ({"method": "average", "coefficient": None, "lines": True}, ["method=average has no coefficient for LiNeS"]),
    "lines without blocks": ({"lines": True}, ["LiNeS scales by block, and no name is like"]),
    "several problems at once": ({"finetuned": {"a": {"w": torch.ones(3)}, "b": {"v": torch.ones(2, 2)}}},
                                 ["w has shape (2, 2) in the pre-trained model and (3,) in a", "b lacks w"]),
    "a device there is not": ({"device": "tpu"}, ["device=tpu is not a device torch knows"]),
    "a kind of output": ({"output_kind": "models"}, ["output_kind is model, task_vector, bundle or adapter; got models"]),
    "a bundle without a folder": ({"method": "tall_mask", "output_kind": "bundle"}, ["output_kind=bundle needs a folder"]),
    "an output of another kind": ({"output": "merged.pt"}, ["output=merged.pt: models are written as safetensors"]),
    "a module": ({"pretrained": nn.Linear(2, 2)}, ["the pre-trained model is a path or a state dict, such as module.state_dict(); got an object of Linear"]),
    "modules": ({"finetuned": [nn.Linear(2, 2), None]}, ["model1 is a path", "there is no checkpoint at None"]),
    "a state dict in the place of several": ({"finetuned": MODEL}, ["finetuned is itself a state dict; name its task"]),
    "no models": ({"finetuned": []}, ["there are no fine-tuned models"]),
    "a file there is not": ({"finetuned": "nope.pt"}, ["there is no checkpoint at nope.pt"]),
    "what is no tensor": ({"finetuned": {"a": {"w": [1, 2]}}}, ["the entry 'w' of a is an object of list"]),
    "a name that is no text": ({"finetuned": {"a": {3: torch.ones(1)}}}, ["the entry 3 of a is not named by text"]),
    "no values": ({"pretrained": {"w": torch.ones(2, 2, device="meta")}}, ["'w' of the pre-trained model is on the meta device"]),
    "sparse entries": ({"finetuned": [{"w": torch.ones(2, 2).to_sparse()}]}, ["'w' of model1 is sparse or quantised"]),
    "codes": ({"pretrained": {"w.qweight": torch.ones(2, 2, dtype=torch.int32)}}, ["is quantised (GPTQ or AWQ"]),
    "an adapter": ({"finetuned": {"a": {"w.lora_A.weight": torch.ones(2, 2)}}}, ["a holds the factors of an adapter"]),
    "a task that no file can have": ({"finetuned": {"a/b": MODEL}}, ["a task cannot be called 'a/b'"]),
    "statistics that are not read": ({"statistics": {"gram_in": {"a": MODEL}}}, ["method=ties needs no statistics"]),
    "a kind of statistics there is not": ({"method": "regmean", "statistics": {"gram": {"a": MODEL}}}, ["no statistics of kind 'gram'", "gram_in"]),
    "statistics of another task": ({"method": "regmean", "statistics": {"gram_in": {"b": MODEL}}}, ["the gram_in is a mapping of tasks (a) to state dicts; got one of b"]),
    "statistics that are no mapping": ({"method": "regmean", "statistics": {"gram_in": [MODEL]}}, ["got one of type list"]),
    "statistics of other shapes": ({"method": "regmean", "statistics": {"gram_in": {"a": {"w": torch.ones(3, 3)}}}}, ["the gram_in of a has shape (3, 3) in w"]),
    "no examples": ({"method": "adamerging", "coefficient": None}, ["learns from unlabelled examples of the tasks, and files"]),
    "no statistics": ({"method": "regmean"}, ["needs statistics of kind gram_in"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_a_sentence_of_the_commands(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, words = ERRORS[case]
    arguments = {
        "method": "ties",
        "pretrained": MODEL,
        "finetuned": {"a": {"w": torch.zeros(2, 2)}},
        "coefficient": 1.0,
        **changes,
    }
    with pytest.raises(UserError) as error:
        merge(**arguments)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert not list(tmp_path.iterdir())


def test_values_that_cannot_be_merged_are_named_when_they_are_read():
    merged = merge("sum", MODEL, {"a": {"w": torch.full((2, 2), torch.nan)}}, coefficient=1)
    with pytest.raises(UserError, match="w holds NaN or infinite values in a"):
        merged["w"]


def test_the_hydra_of_a_program_around_it_stays_as_it_is():
    with initialize_config_dir(str(ROOT / "config"), version_base="1.2"):
        HydraConfig.instance().set_config(compose("config", ["method=sum"], return_hydra_config=True))
        hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        merge("ties", MODEL, [MODEL | {"w": torch.zeros(2, 2)}], coefficient=1)
        with pytest.raises(UserError):
            merge("tyes", MODEL, [MODEL], coefficient=1)
        assert GlobalHydra.instance().hydra is hydra and HydraConfig.instance().cfg is config
        assert compose("config", ["method=average"]).method._target_.endswith("Average")


def test_the_documentation_runs_and_names_every_argument(files, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "python.md").read_text()
    arguments = [name for name in inspect.signature(merge).parameters if name != "options"]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == arguments
    pretrained, finetuned = in_memory(files)
    for name, source in {"base/model": "base", "cars": "task0", "dtd/model": "task1"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(files / f"{source}.safetensors", tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    model = nn.Module()
    model.load_state_dict = dict
    names = {"model": model, "pretrained": pretrained, "cars": finetuned["task0"], "dtd": finetuned["task1"]}
    names["gram_matrices"] = random_statistic(pretrained, "gram_in", "task0")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["path"] == Path("merged/") and list(Path("merged").glob("*.safetensors"))


@pytest.mark.gpu
def test_entries_come_back_on_the_devices_they_were_on(files):
    pretrained, finetuned = in_memory(files)
    expected = dict(merge("ties", pretrained, finetuned, coefficient=0.5, device="cpu"))
    on_gpu = {key: leaf.to("cuda") for key, leaf in pretrained.items()}
    tuned_on_gpu = {task: {key: leaf.to("cuda") for key, leaf in model.items()} for task, model in finetuned.items()}
    for base in (pretrained, on_gpu):
        for models in (finetuned, tuned_on_gpu, {**finetuned, "task1": tuned_on_gpu["task1"]}):
            for device in ("cpu", "cuda"):
                for key, leaf in merge("ties", base, models, coefficient=0.5, device=device).items():
                    assert leaf.device == base[key].device
                    torch.testing.assert_close(leaf.cpu(), expected[key])
