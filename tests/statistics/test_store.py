"""Statistics beside their checkpoints: collected once, anew where anything decisive changed, gone on with after a kill."""

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from src.runtime.distributed import SINGLE, ProcessGroup
from src.state_dict import digest
from src.statistics.collection import StatisticsSettings
from src.statistics.files import provenance_of
from src.statistics.store import CollectedStatistics
from tests.helpers.likely_families import ia3_family, text_family
from tests.helpers.linear_family import LinearFamily, Points
from tests.helpers.progress import RecordedProgress
from tests.helpers.text_models import GOLDEN, GoldenTask

SETTINGS = StatisticsSettings(split="val", examples=12, labels="true", seed=0)
TASKS = ("alpha", "beta")


def store(folder, family=None, tasks=TASKS, save_minutes=60, **options):
    """Return the store of (IA)^3 vectors fine-tuned on the golden tasks, in files under `folder`."""
    family = family or ia3_family()
    for task in tasks:
        if not (folder / f"{task}.safetensors").exists():
            (folder / f"{task}.safetensors").write_bytes((GOLDEN / "inputs" / f"ia3_{task}.safetensors").read_bytes())
    checkpoints = {task: open_checkpoint(folder / f"{task}.safetensors") for task in tasks}
    settings = replace(SETTINGS, **{key: options.pop(key) for key in list(options) if hasattr(SETTINGS, key)})
    digests = {task: digest(checkpoint.items()) for task, checkpoint in checkpoints.items()}
    return CollectedStatistics(
        family, {task: GoldenTask(task) for task in tasks}, checkpoints, digests, settings, 4, save_minutes, **options
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "statistics").glob("*.safetensors"))}


def collected(statistics, kind="fisher_block"):
    """Return what is collected when a kind is asked for, (words, examples)."""
    progress = RecordedProgress()
    replace(statistics, progress=progress)[kind]
    return [(what, done) for what, done in progress.reports if done]


def test_statistics_are_collected_once_and_kept_with_their_provenance(tmp_path):
    assert sum(done for _, done in collected(store(tmp_path))) == 24
    files = contents(tmp_path)
    assert list(files) == [f"{task}_{task}_fisher_block_true_val_12.safetensors" for task in TASKS]
    found = provenance_of(tmp_path / "statistics" / "alpha_alpha_fisher_block_true_val_12.safetensors")
    assert found.checkpoint == digest(open_checkpoint(tmp_path / "alpha.safetensors").items())
    assert {"task", "split", "examples", "labels", "seed", "data", "head", "model"} == set(found.facts)
    assert collected(store(tmp_path)) == [] and contents(tmp_path) == files
    matrix = store(tmp_path)["fisher_block"]["alpha"]["encoder.block.0.layer.0.SelfAttention.k.ia3"]
    assert torch.equal(matrix, matrix.T) and matrix.shape == (32, 32) and matrix.diagonal().min() > 0


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"examples": 5}, {"split": "train"}, {"labels": "empirical"}, {"checkpoint": True}]
)
def test_statistics_of_anything_else_are_collected_anew(tmp_path, change):
    before = store(tmp_path)["fisher_block"]["alpha"]
    key = next(iter(before))
    matrix = before[key].clone()
    if change == {"checkpoint": True}:
        weights = load_file(tmp_path / "alpha.safetensors")
        save_file({name: leaf + 0.1 for name, leaf in weights.items()}, tmp_path / "alpha.safetensors")
        assert {what for what, _ in collected(store(tmp_path))} == {"collecting fisher_block of alpha"}
    else:
        assert len({what for what, _ in collected(store(tmp_path, **change))}) == 2
    if "split" not in change:  # of a golden task all splits are equal
        changed = {name: value for name, value in change.items() if name != "checkpoint"}
        assert not torch.equal(store(tmp_path, **changed)["fisher_block"]["alpha"][key], matrix)


def test_two_tasks_of_one_checkpoint_have_statistics_of_their_own(tmp_path):
    first = store(tmp_path)
    shared = replace(first, checkpoints=dict.fromkeys(TASKS, first.checkpoints["alpha"]),
                     digests=dict.fromkeys(TASKS, first.digests["alpha"]))  # fmt: skip
    found = shared["fisher_diag"]
    key = next(iter(found["alpha"]))
    assert not torch.equal(found["alpha"][key], found["beta"][key])


def test_matrices_of_inputs_come_with_those_of_gradients(tmp_path):
    (tmp_path / "alpha.safetensors").write_bytes((GOLDEN / "inputs" / "full_alpha.safetensors").read_bytes())
    whole = store(tmp_path, text_family(), tasks=("alpha",))
    assert whole["gram_out"] and collected(whole, "gram_in") == []
    before = contents(tmp_path)
    (tmp_path / "statistics" / "alpha_alpha_gram_out_true_val_12.safetensors").unlink()
    inode = (kept := tmp_path / "statistics" / "alpha_alpha_gram_in_true_val_12.safetensors").stat().st_ino
    assert whole["gram_out"] and contents(tmp_path) == before and kept.stat().st_ino == inode
    inputs = whole["gram_in"]["alpha"]
    assert set(inputs) == set(text_family().linear_layers())
    names = ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.0.SelfAttention.v.weight")
    assert torch.equal(inputs[names[0]], inputs[names[1]])
    stored = load_file(next((tmp_path / "statistics").glob("*gram_in*.safetensors")))
    assert names[0] in stored and names[1] not in stored and stored[names[0]].shape == (32 * 33 // 2,)


class KilledAfter(RecordedProgress):
    """Kills this process at its so-manieth batch."""

    def __init__(self, batches):
        super().__init__()
        self._left = batches

    def report(self, what, done):
        self._left -= bool(done)
        if done and not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(folder, kind, family):
    store(folder, family, tasks=("alpha",), save_minutes=0, progress=KilledAfter(2))[kind]


@pytest.mark.parametrize("kind", ["fisher_diag", "gram_out"])
def test_a_killed_collection_goes_on_to_the_same_bits(tmp_path, kind):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "alpha.safetensors").write_bytes((GOLDEN / "inputs" / "full_alpha.safetensors").read_bytes())
    store(whole, text_family(), tasks=("alpha",))[kind]
    process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(killed, kind, text_family()))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    (left,) = contents(killed)
    assert left == f"alpha_alpha_{kind}_true_val_12_unfinished.safetensors"
    family = CountedPasses(text_family())
    store(killed, family, tasks=("alpha",))[kind]
    assert family.passes == 1  # of three batches
    assert contents(killed) == contents(whole) != {}


class CountedPasses:
    def __init__(self, family):
        self._family, self.passes = family, 0

    def __getattr__(self, name):
        return getattr(self._family, name)

    def objective(self, *arguments):
        self.passes += 1
        return self._family.objective(*arguments)


def test_a_state_of_anything_else_or_damaged_counts_as_none(tmp_path):
    expected = store(tmp_path, tasks=("alpha",))["fisher_diag"]["alpha"]
    values = {key: leaf.clone() for key, leaf in expected.items()}
    (path,) = (tmp_path / "statistics").glob("*fisher_diag*.safetensors")
    path.unlink()
    state = path.with_name(f"{path.stem}_unfinished.safetensors")
    for content in (b"", b"\xff" * 100, (GOLDEN / "inputs" / "ia3_alpha.safetensors").read_bytes()):
        state.write_bytes(content)
        found = store(tmp_path, tasks=("alpha",))["fisher_diag"]["alpha"]
        assert all(torch.equal(found[key], leaf) for key, leaf in values.items()) and not state.exists()
        path.unlink()


@dataclass(frozen=True)
class OneOfTwo(ProcessGroup):
    """A process of a group of two, the other of which is run before or after it: what rank 0 lacks is given."""

    missing: tuple[str, ...] = TASKS

    def all_gather(self, value):
        return [list(self.missing), value]

    def barrier(self):
        pass


def test_two_processes_collect_what_one_does_even_if_one_is_late(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    store(alone, group=SINGLE)["fisher_diag"]
    with pytest.raises(UserError, match="beta"):  # whose file the other process has not written yet
        store(shared, group=OneOfTwo(0, 2, 0))["fisher_diag"]
    assert [name.split("_")[0] for name in contents(shared)] == ["alpha"]
    store(shared, group=OneOfTwo(1, 2, 1))["fisher_diag"]
    assert contents(shared) == contents(alone)


def test_of_two_runs_one_collects_and_the_other_reads(tmp_path):
    """The other finds the lock taken, and the statistics there when it is free."""
    first, inner = store(tmp_path, tasks=("alpha",)), []

    def meanwhile(what, done):
        if not inner:
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=report_to, args=(tmp_path, there))
            inner.append((process, here))
            process.start()
            assert here.poll(60) and "waiting for another run" in here.recv()

    replace(first, progress=RecordedProgress(meanwhile))["fisher_diag"]
    ((process, here),) = inner
    assert here.poll(60) and here.recv() == "done"  # without a batch of its own
    process.join(60)
    assert process.exitcode == 0


def report_to(folder, pipe):
    progress = RecordedProgress(lambda what, done: pipe.send(what))
    store(folder, tasks=("alpha",), progress=progress)["fisher_diag"]
    pipe.send("done")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "statistics").write_text("a file")
    with pytest.raises(UserError, match=rf"the folder {tmp_path}/statistics cannot be made .*; choose another place"):
        store(tmp_path)["fisher_diag"]
    (tmp_path / "statistics").unlink()
    lock = tmp_path / "statistics" / ".alpha_alpha_fisher_diag_true_val_12.safetensors.lock"
    lock.mkdir(parents=True)  # stands for a folder that is not ours, as the tests may run as root
    with pytest.raises(UserError, match=rf"the folder {tmp_path}/statistics cannot be written .*; choose another place"):
        store(tmp_path)["fisher_diag"]


def test_a_family_without_probabilities_is_refused_in_words(tmp_path):
    family = LinearFamily()
    save_file(family.pretrained, tmp_path / "points.safetensors")
    checkpoint = {"points": open_checkpoint(tmp_path / "points.safetensors")}
    statistics = CollectedStatistics(family, {"points": Points()}, checkpoint, {"points": "a"}, SETTINGS, 4, 5)
    with pytest.raises(UserError, match="line does not say how probable answers are"):
        statistics["fisher_diag"]
