"""What tests share: tiny models, the command line as users type it, and the demo fine-tuned once."""

import os
from pathlib import Path
from zlib import crc32

import pytest
import torch
from torch import Generator, Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.statistics import FISHER_DIAG, SHAPES
from src.models.layers import depth_by_name, is_layer_by_name
from src.state_dict import Lazy
from tests.helpers.linear_entropy import LinearEntropy
from tests.helpers.processes import run_fresh

# Tests run side by side, one a core, and so must the processes they start. Set after torch was imported here, this
# leaves this process its threads.
os.environ["OMP_NUM_THREADS"] = "1"

LONGEST = (
    "test_demo.py",
    "test_tangent",
    "test_restarts",
    "test_own_benchmark",
    "test_finetune",
    "test_reproduce",
    "test_experiments",
)

Models = tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]


def tiny_models(tasks: int = 3, blocks: int = 3, seed: int = 0) -> Models:
    """A pre-trained state dict with blocks, a frozen entry and an integer one, and fine-tuned copies by task."""
    draw = Generator().manual_seed(seed)
    shapes = {"embed.weight": (5, 4), "frozen.weight": (7, 3), "head.bias": (6,)}
    shapes |= {f"blocks.{i}.{part}": shape for i in range(blocks) for part, shape in (("w", (4, 6)), ("b", (4,)))}
    pretrained = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    pretrained["positions"] = torch.arange(5)
    finetuned = {}
    for number in range(tasks):
        move = {key: 0.1 * torch.randn(leaf.shape, generator=draw) for key, leaf in pretrained.items()}
        still = ("frozen.weight", "positions")
        finetuned[f"task{number}"] = {key: leaf.clone() if key in still else leaf + move[key] for key, leaf in pretrained.items()}
    return pretrained, finetuned


def merge_inputs(models: Models, keep: bool = False) -> MergeInputs:
    pretrained, finetuned = models
    statistics = {kind: {task: random_statistic(pretrained, kind, task) for task in finetuned} for kind in SHAPES}
    return MergeInputs(
        pretrained,
        finetuned,
        depth_by_name(pretrained),
        is_layer_by_name,
        torch.device("cpu"),
        keep,
        statistics,
        read_model=lambda path: next(reversed(finetuned.values())),
        unlabelled=lambda split, size, seed: LinearEntropy(len(finetuned)),
    )


def random_statistic(model: dict[str, Tensor], kind: str, task: str) -> Lazy:
    """A statistic of every parameter that can have one; made when it is read, as some are large."""
    shapes = {key: shape for key, leaf in model.items() if leaf.is_floating_point() and (shape := SHAPES[kind](leaf.shape))}

    def make(key: str) -> Tensor:
        draw = Generator().manual_seed(crc32(f"{kind} {task} {key}".encode()))
        root = torch.randn(shapes[key], generator=draw)
        return root.square() if kind == FISHER_DIAG else root @ root.T

    return Lazy({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, make)


@pytest.fixture
def models() -> Models:
    return tiny_models()


@pytest.fixture
def inputs(models: Models) -> MergeInputs:
    return merge_inputs(models)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first, so that no process is alone with it at the end."""
    items.sort(key=lambda item: next((number for number, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `python main.py` was run once: fine-tuned models, scores and the first result lie there."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_fresh("main.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    return folder
