"""A benchmark as users have it: published pickles and heads, data of their own, through the whole program."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from src.models.hf_clip import to_hf
from tests.helpers.processes import ROOT, run_script

TASKS = """
names: [Warm, Cold]
Warm:
  source: photographs/warm
  templates: ["something {}."]
Cold:
  source: photographs/cold
  templates: ["something {}.", "a {} patch."]
"""
COLOURS = {"warm": {"red": (200, 30, 20), "orange": (250, 140, 0)}, "cold": {"blue": (20, 40, 210), "cyan": (20, 210, 210)}}


def pretrained() -> dict[str, torch.Tensor]:
    shipped = load_file(ROOT / "demo" / "ViT-demo.safetensors")
    return {f"model.{key}": leaf.float() for key, leaf in shipped.items() if not key.startswith("transformer.")}


def tuned(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    noise = {key: 0.002 * torch.randn(leaf.shape, generator=draw) for key, leaf in pretrained().items()}
    return {key: leaf + noise[key] if "visual" in key else leaf for key, leaf in pretrained().items()}


def named_by_transformers() -> dict[str, torch.Tensor]:
    """The entries that transformers' image tower of the demo's architecture has."""
    config = json.loads((ROOT / "demo" / "ViT-demo.json").read_text())
    vision = config["vision_cfg"]
    width = vision["width"]
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=vision["layers"],
            num_attention_heads=width // vision["head_width"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            projection_dim=config["embed_dim"],
        )
    )
    return tower.state_dict()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tasks of coloured pictures in folders, a yaml that names them, and published-style checkpoints."""
    root = tmp_path_factory.mktemp("benchmark")
    for task, classes in COLOURS.items():
        for part, count in (("train", 30), ("test", 8)):
            for name, colour in classes.items():
                folder = root / "photographs" / task / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    shade = tuple(max(0, min(255, channel + 4 * number - 2 * count)) for channel in colour)
                    Image.new("RGB", (40 + number, 36), shade).save(folder / f"{number}.png")
    (root / "mine" / "tasks").mkdir(parents=True)
    (root / "mine" / "tasks" / "colours.yaml").write_text(TASKS)
    models = root / "checkpoints" / "ViT-demo"
    for seed, task in enumerate(("Warm", "Cold")):
        (models / f"{task}Val").mkdir(parents=True)
        torch.save(tuned(seed), models / f"{task}Val" / "nonlinear_finetuned.pt")
    return root


MINE = ("--config-dir=mine", "tasks=colours", "model.finetune_missing=false")


def result(root, done, folder="results"):
    assert done.returncode == 0, done.stderr
    record = json.loads(max(root.glob(f"{folder}/*.json"), key=lambda path: path.stat().st_mtime_ns).read_text())
    assert record["name"] in done.stdout
    return record


def test_ones_own_tasks_and_published_pickles_are_merged_and_scored(root):
    done = run_script("main.py", *MINE, "method=sum", cwd=root)
    record = result(root, done)
    assert list(record["test"]) == ["Warm", "Cold"] and record["test"]["Warm"]["merged"]["count"] == 16
    assert record["test"]["Cold"]["zeroshot"]["accuracy"] >= 0.75  # the demo's model knows colours
    assert record["benchmark"] == "unknown" and "benchmark: unknown" in done.stdout
    (root / "mine.yaml").write_text(json.dumps({"mine": {"ViT-demo": {k: record["lineage"][k] for k in ("finetuned", "data")}}}))
    again = run_script("main.py", *MINE, "method=sum", "lineages=[mine.yaml]", cwd=root)
    assert result(root, again)["benchmark"] == "mine"


def test_published_heads_are_used_and_said_to_be_others(root):
    heads = root / "checkpoints" / "ViT-demo"
    weight = torch.randn(2, 64)
    torch.save({"weight": weight, "bias": torch.zeros(2)}, heads / "head_WarmVal.pt")
    first = result(root, run_script("main.py", *MINE, "method=average", "heads.source=prompts", cwd=root))
    second = result(root, run_script("main.py", *MINE, "method=average", cwd=root))
    assert first["lineage"]["heads"]["Warm"] != second["lineage"]["heads"]["Warm"]
    assert first["lineage"]["heads"]["Cold"] == second["lineage"]["heads"]["Cold"]
    missing = run_script("main.py", *MINE, "heads.source=published", cwd=root)
    assert missing.returncode == 1 and "no published heads for Cold" in missing.stderr and "Warm" not in missing.stderr
    torch.save({"weight": torch.randn(3, 64)}, heads / "head_WarmVal.pt")
    wrong = run_script("main.py", *MINE, "method=average", cwd=root)
    assert wrong.returncode == 1 and "has 3 classes, and Warm has 2" in wrong.stderr and "Traceback" not in wrong.stderr
    (heads / "head_WarmVal.pt").unlink()


def test_a_published_reference_is_what_task_vectors_start_from(root):
    reference = {key: leaf + (0.01 if key == "model.visual.proj" else 0) for key, leaf in pretrained().items()}
    path = root / "checkpoints" / "ViT-demo" / "ColdVal" / "nonlinear_zeroshot.pt"
    without = result(root, run_script("main.py", *MINE, "method=zeroshot", cwd=root))
    torch.save(reference, path)
    with_one = result(root, run_script("main.py", *MINE, "method=zeroshot", "output=start.safetensors", cwd=root))
    assert without["lineage"]["pretrained"] != with_one["lineage"]["pretrained"]
    assert without["lineage"]["heads"] == with_one["lineage"]["heads"]  # the text tower is the pre-trained model's
    assert torch.equal(load_file(root / "start.safetensors")["model.visual.proj"], reference["model.visual.proj"])
    save_file(pretrained(), root / "checkpoints" / "ViT-demo" / "WarmVal" / "nonlinear_zeroshot.safetensors")
    doubtful = run_script("main.py", *MINE, "method=zeroshot", cwd=root)
    assert doubtful.returncode == 1 and "start from different weights; remove one, or give pretrained=PATH" in doubtful.stderr
    chosen = result(root, run_script("main.py", *MINE, "method=zeroshot", f"pretrained={path}", cwd=root))
    assert chosen["lineage"]["pretrained"] == with_one["lineage"]["pretrained"]
    path.unlink()
    (root / "checkpoints" / "ViT-demo" / "WarmVal" / "nonlinear_zeroshot.safetensors").unlink()


def test_checkpoints_of_transformers_are_read_under_our_names(root):
    theirs = to_hf(tuned(0), named_by_transformers())
    save_file({key: leaf.contiguous().clone() for key, leaf in theirs.items()}, root / "warm-hf.safetensors")
    ours = result(root, run_script("main.py", *MINE, "method=sum", "specify_lambda=0.4", cwd=root))
    option = "finetuned={Warm: warm-hf.safetensors}"
    theirs = result(root, run_script("main.py", *MINE, "method=sum", "specify_lambda=0.4", option, cwd=root))
    assert ours["lineage"]["finetuned"] == theirs["lineage"]["finetuned"] and ours["test"] == theirs["test"]
    wrong = run_script("main.py", *MINE, "finetuned=[warm-hf.safetensors]", cwd=root)
    assert wrong.returncode == 1 and "finetuned={MNIST:" in wrong.stderr


def test_everything_that_is_missing_is_named_at_once(root):
    done = run_script("main.py", "model=ViT-B-32", "num_tasks=3", "download=false", "heads.source=published", cwd=root)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for words in ("Cars is not there", "DTD is not there", "EuroSAT is not there", "weights for Cars, DTD, EuroSAT",
                  "heads for Cars, DTD, EuroSAT", "download_checkpoints.py --model=ViT-B-32"):  # fmt: skip
        assert words in done.stderr, words
    assert not (root / "results" / "x").exists() and done.stderr.count("error: ") == 5
    data = run_script("download_datasets.py", "--datasets=ImageNet", cwd=root)
    assert data.returncode == 1 and "ImageNet is not there" in data.stderr and "Traceback" not in data.stderr
