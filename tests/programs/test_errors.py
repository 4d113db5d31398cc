"""Every mistake a user can make ends in a sentence: a non-zero exit, no traceback, what and which, nothing destroyed."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.writing import save_file as stream_file
from tests.conftest import tiny_models
from tests.helpers.processes import ROOT, run_script

FILES = ("model=files", "pretrained=base.safetensors", "output=merged.safetensors")
TWO = "finetuned=[task0.safetensors,task1.safetensors]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    pretrained, finetuned = tiny_models(2)
    save_file(pretrained, folder / "base.safetensors")
    for name, model in finetuned.items():
        save_file(model, folder / f"{name}.safetensors")
    without = {key: leaf for key, leaf in finetuned["task0"].items() if key != "head.bias"}
    save_file(without, folder / "short.safetensors")
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        spoiled = {**finetuned["task0"], "blocks.1.w": torch.full((4, 6), value)}
        save_file(spoiled, folder / f"{name}.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "task0.safetensors").read_bytes()[:-30])
    (folder / "noise.pt").write_bytes(b"this is no checkpoint")
    (folder / "elsewhere").mkdir()
    save_file(finetuned["task0"], folder / "elsewhere" / "task0.safetensors")
    save_file({"n": torch.arange(3)}, folder / "whole.safetensors")
    save_file({"n": torch.arange(3)}, folder / "whole2.safetensors")
    flat = {"conv.weight": torch.ones(2), "fc.weight": torch.ones(2)}
    save_file(flat, folder / "flat.safetensors")
    save_file({key: leaf + 1 for key, leaf in flat.items()}, folder / "flat2.safetensors")
    stream_file({"w": torch.ones(2)}, folder / "merged.safetensors")  # an earlier result
    save_file(pretrained, folder / "precious.safetensors")
    return folder


CASES = {
    "a typo": (("metod=ties",), ["there is no option metod; did you mean method=ties?"]),
    "a typo below": (("method=ties", "method.kk=20"), ["ties has no kk; did you mean method.k=20?"]),
    "an unknown method": (("method=tyes",), ["there is no method tyes; did you mean method=ties?", "average"]),
    "a typo in a sweep": (("-m", "method=ties,tie"), ["there is no method tie; did you mean method=ties?"]),
    "several values without a sweep": (("method=ties,sum",), ["method=ties,sum is several values", "-m"]),
    "five typos": (("methd=ties", "num_task=8", "specify_lamda=0.3", "model=ViT-B32", "pretrained=a=b"),
                   ["method=ties?", "num_tasks=8?", "specify_lambda=0.3?", "ViT-B-32?", "\"pretrained='a=b'\""]),
    "a sweep of nothing": (("-m", "method=glob(Q*)"), ["method=glob(Q*) matches none of", "ties"]),
    "an interpolation to nothing": (("output=${nothing}",), ["output=${nothing} takes a value that is not there"]),
    "a mode without a name": (("finetuning_mode.name=null",), ["finetuning_mode.name is text; got null"]),
    "a model's option of another type": (("model.family.quick_gelu=5",), ["model.family.quick_gelu is true, false or null; got 5"]),
    "an option with dashes": (("--method=ties",), ["--method=ties", "without dashes"]),
    "an option between flags": (("method=ties", "-m", "num_tasks=1"), ["num_tasks=1", "all before or all after flags"]),
    "two things to do": (("--cfg", "job", "--info", "config"), ["only one of --run"]),
    "a configuration there is not": (("--config-name=nope",), ["--config-name=nope"]),
    "a folder of configurations there is not": (("--config-dir=nope",), ["--config-dir=nope is no folder"]),
    "help with a typo": (("--help", "method=tie"), ["did you mean method=ties?"]),
    "an option of scoring for files": ((*FILES, TWO, "specify_lambda=1", "precision=bf16"), ["precision=bf16", "does not read precision"]),
    "a device that is a list": (("device=[cpu]",), ["device is a name"]),
    "an output that is no path": ((*FILES[:2], TWO, "output=true", "specify_lambda=1"), ["output is a path"]),
    "an unknown model": (("model=ViT-Z",), ["ViT-Z", "ViT-demo"]),
    "an unknown task": (("DATASETS=[Shapes,MNISS]",), ["MNISS", "did you mean MNIST?"]),
    "too many tasks": (("num_tasks=9",), ["num_tasks=9", "8"]),
    "k out of range": (("method=ties", "method.k=200"), ["method.k of ties", "200", "up to 100"]),
    "k is no number": (("method.k=many",), ["method.k of sum", "many"]),
    "an unknown way to combine": (("method=ties", "method.agg=median"), ["median", "mean, sum, max"]),
    "a task index out of range": (("method=single_task", "method.task_index=8", *FILES, TWO), ["task_index=8", "0 task0"]),
    "lines on average": (("method=average", "method.apply_lines=True"), ["average", "method=sum"]),
    "lines on zeroshot": (("method=zeroshot", "method.apply_lines=True"), ["zeroshot", "apply_lines"]),
    "a coefficient average does not have": (("method=average", "specify_lambda=0.7"), ["0.7", "method=sum"]),
    "a device that is not there": (("device=tpu",), ["tpu"]),
    "a device torch knows but we do not": (("device=meta",), ["meta"]),
    "an empty grid": (("method.grid=[]",), ["method.grid", "[]"]),
    "a grid that is no list": (("method.grid=0.3", "n_eval_points=3"), ["method.grid", "0.3"]),
    "num_tasks is no number": (("num_tasks=abc",), ["num_tasks=abc"]),
    "no task": (("DATASETS=[]",), ["DATASETS"]),
    "a task that is a number": (("DATASETS=5",), ["DATASETS", "5"]),
    "a merge of files by several processes": ((*FILES, TWO, "specify_lambda=1", "world_size=2"), ["one process", "world_size"]),
    "several things at once": (("lineages=none.yaml", "device=tpu", "DATASETS=[Digits]", "finetuned={Digits: nope.safetensors}"),
                               ["none.yaml", "tpu", "nope.safetensors"]),
    "a single task's index out of range": (("method=single_task", "method.task_index=8"), ["task_index=8", "7 Arrows"]),
    "a folder that does not resolve": (("cache_dir=${nope}",), ["nope"]),
    "finetuned is a number": (("model=files", "pretrained=base.safetensors", "finetuned=5", "output=o.safetensors", "method=average"), ["5"]),
    "integers only": (("model=files", "pretrained=whole.safetensors", "finetuned=[whole2.safetensors]", "output=o.safetensors",
                       "method=ties", "specify_lambda=1"), ["floating"]),
    "a spoiled pretrained model under zeroshot": (("model=files", "pretrained=nan.safetensors", "finetuned=[task1.safetensors]",
                                                   "output=o.safetensors", "method=zeroshot"), ["blocks.1.w", "NaN"]),
    "an output in an input folder": (("model=files", "pretrained=elsewhere", TWO, "output=elsewhere", "specify_lambda=1"),
                                     ["elsewhere", "overwrite"]),
    "an output that is a pickle": (("model=files", "pretrained=base.safetensors", TWO, "output=merged.pt", "specify_lambda=1"), ["merged.pt"]),
    "an output kind there is not": (("output_kind=onnx",), ["onnx", "task_vector"]),
    "a group set as a whole": (("heads=prompts",), ["heads.source"]),
    "a folder that is none": (("cache_dir=null",), ["cache_dir is a folder"]),
    "a folder that is a file": (("results_dir=base.safetensors",), ["results_dir=base.safetensors is a file"]),
    "weights of a task that is not in the run": (("DATASETS=[Digits]", "finetuned={Digts: base.safetensors}"), ["Digts", "Digits"]),
    "weights that are not where they should be": (("DATASETS=[Digits]", "finetuned={Digits: nope.safetensors}"), ["nope.safetensors"]),
    "a manifest that is not there": (("lineages=none.yaml",), ["none.yaml"]),
    "no files": (("model=files",), ["pretrained", "finetuned", "output"]),
    "no coefficient": ((*FILES, TWO), ["specify_lambda"]),
    "missing checkpoints": ((*FILES, "finetuned=[no.pt,none.pt]", "specify_lambda=1"), ["no.pt", "none.pt"]),
    "mismatched keys": ((*FILES, "finetuned=[task0.safetensors,short.safetensors]", "specify_lambda=1"), ["short", "head.bias"]),
    "two of one name": ((*FILES, "finetuned=[task0.safetensors,elsewhere/task0.safetensors]", "specify_lambda=1"), ["task0", "name them"]),
    "a truncated file": ((*FILES, "finetuned=[task0.safetensors,cut.safetensors]", "specify_lambda=1"), ["cut.safetensors", "truncated"]),
    "no checkpoint at all": ((*FILES, "finetuned=[noise.pt]", "specify_lambda=1"), ["noise.pt"]),
    "NaN": ((*FILES, "finetuned=[task1.safetensors,nan.safetensors]", "specify_lambda=1"), ["blocks.1.w", "nan", "NaN"]),
    "infinity": ((*FILES, "finetuned=[task1.safetensors,inf.safetensors]", "method=ties", "specify_lambda=1"), ["blocks.1.w", "inf"]),
    "an output that is an input": (("model=files", "pretrained=base.safetensors", TWO, "output=task0.safetensors", "specify_lambda=1"),
                                   ["task0.safetensors", "overwrite"]),
    "a task named twice": ((*FILES, "finetuned={one: task0.safetensors, one: task1.safetensors}", "specify_lambda=1"), ["one 2 times"]),
    "an option given twice": ((*FILES, TWO, "specify_lambda=1", "specify_lambda=2"), ["specify_lambda is given 2 times"]),
    "nobody's home": (("model=files", "pretrained='~nobody-here/base.safetensors'", TWO, "output=o.safetensors", "specify_lambda=1"),
                      ["nobody-here", "no user"]),
    "an output that is somebody else's": (("model=files", "pretrained=base.safetensors", TWO, "output=precious.safetensors",
                                           "specify_lambda=1"), ["precious.safetensors", "not written as an output"]),
    "no blocks for lines": (("model=files", "pretrained=flat.safetensors", "finetuned=[flat2.safetensors]", "output=merged.safetensors",
                             "specify_lambda=1", "method.apply_lines=true"), ["depth_pattern"]),
    "no folder to write in": ((*FILES[:2], TWO, "specify_lambda=1", "output=base.safetensors/out.safetensors"), ["base.safetensors"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_a_sentence(case, folder):
    arguments, words = CASES[case]
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = run_script("main.py", *arguments, cwd=folder)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def no_large_file():
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_earlier_result(folder):
    before = (folder / "merged.safetensors").read_bytes()
    done = run_script("main.py", *FILES, TWO, "specify_lambda=1", cwd=folder, prepare=no_large_file)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no space left" in done.stderr and "merged.safetensors" in done.stderr, done.stderr
    assert (folder / "merged.safetensors").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def spoiled_demo(folder):
    """Write pre-trained weights as those of two tasks; return the weights, and the files' paths by task."""
    pretrained = load_file(ROOT / "demo" / "ViT-demo.safetensors")
    model = {f"model.{key}": leaf.float() for key, leaf in pretrained.items() if not key.startswith("transformer.")}
    paths = {
        task: folder / "checkpoints" / "ViT-demo" / f"{task}Val" / "nonlinear_finetuned.safetensors"
        for task in ("Digits", "Arrows")
    }
    for path in paths.values():
        path.parent.mkdir(parents=True)
        save_file(model, path)
    return model, paths


def test_fine_tuned_weights_that_are_spoiled_are_named_before_anything_is_scored(tmp_path):
    model, paths = spoiled_demo(tmp_path)
    options = ("DATASETS=[Digits,Arrows]", "method=average")
    save_file({**model, "model.visual.proj": torch.full_like(model["model.visual.proj"], float("nan"))}, paths["Arrows"])
    done = run_script("main.py", *options, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ArrowsVal" in done.stderr and "model.visual.proj" in done.stderr and "Digits" not in done.stderr
    for path in paths.values():
        path.write_bytes(path.read_bytes()[:-9])
    done = run_script("main.py", *options, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ArrowsVal" in done.stderr and "DigitsVal" in done.stderr and "truncated" in done.stderr
    assert not (tmp_path / "cache" / "scores").exists() and not (tmp_path / "results").exists()


def test_weights_of_another_origin_are_not_reused_silently(tmp_path):
    model, paths = spoiled_demo(tmp_path)
    recipe = {
        "lr": 3e-4,
        "weight_decay": 0.1,
        "warmup_steps": 10,
        "epochs": 3,
        "batch_size": 128,
        "max_grad_norm": 1.0,
        "seed": 0,
    }
    stream_file(model, paths["Digits"], {"made_from": json.dumps({"pretrained": "another", "recipe": recipe})})
    for script in (("main.py", "DATASETS=[Digits,Arrows]"), ("finetune.py", "--train-dataset=Digits,Arrows")):
        done = run_script(*script, cwd=tmp_path)
        assert done.returncode == 1 and "other pre-trained weights" in done.stderr and "DigitsVal" in done.stderr, done.stderr


def test_weights_of_another_task_or_other_classes_are_not_reused_silently(tmp_path):
    model, paths = spoiled_demo(tmp_path)
    about = json.dumps({"pretrained": "", "recipe": {}, "task": ""})
    stream_file(model, paths["Digits"], {"made_from": about, "task": "Arrows"})
    done = run_script("main.py", "DATASETS=[Digits,Arrows]", cwd=tmp_path)
    assert done.returncode == 1 and "was fine-tuned on Arrows, not on Digits" in done.stderr, done.stderr
    save_file({"model.visual.proj": torch.ones(2, 2)}, paths["Digits"])
    done = run_script("main.py", "DATASETS=[Digits,Arrows]", cwd=tmp_path)
    assert done.returncode == 1 and "is of another model than ViT-demo" in done.stderr and done.stderr.count("error:") == 1


def test_finetune_reports_user_errors_without_a_traceback(tmp_path):
    cases = (
        (("--model=ViT-Z",), "ViT-Z"),
        (("--model=files",), "files"),
        (("--train-dataset=MNISS",), "MNISS"),
        (("model.recipe.lr=0",), "lr"),
        (("methd=ties",), "did you mean method=ties?"),
        (("--train-datasets=Digits",), "there is no flag --train-datasets; did you mean --train-dataset?"),
        (("--lr",), "expected one argument"),
        (("output=merged",), "finetune.py does not read output"),
    )
    for arguments, word in cases:
        done = run_script("finetune.py", *arguments, cwd=tmp_path)
        assert done.returncode == 1 and word in done.stderr and done.stderr.startswith("error: "), done.stderr
