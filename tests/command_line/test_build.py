import pytest
import torch

from command_line import build
from command_line.build import (
    build_device,
    build_method,
    build_statistics_settings,
    candidates_per_pass,
    check_modality,
    check_statistics,
)
from command_line.config import compose_config
from command_line.preflight import selected_tasks
from src.errors import UserError
from src.runtime.distributed import SINGLE, ProcessGroup
from tests.helpers.processes import run_script


def test_a_batch_for_a_gpu_is_made_with_the_gpus_number(monkeypatch):
    """Threads have no current GPU of their own, and batches are made in one."""
    config = compose_config(["device=cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert build_device(config) == torch.device("cuda", 3)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="one GPU"):
        build_device(compose_config(["device=cuda:0"]))


def test_a_group_scores_as_many_models_in_a_pass_as_its_poorest_process_can(monkeypatch):
    class Two(ProcessGroup):
        def all_gather(self, value):
            return [value, 3]

    config, two = compose_config([]), Two(0, 2, 0)
    assert candidates_per_pass(config, torch.device("cpu"), 2**20, two) == 3
    assert candidates_per_pass(config, torch.device("cpu"), 2**20, SINGLE) == 8
    assert candidates_per_pass(config, torch.device("cpu"), 2**60, SINGLE) == 1


WORDS = ["tasks.words.source=rows", "tasks.words.templates=['{{text}} ||| {{answer}}']", "DATASETS=[words]"]
MISTAKES = {
    "a task of text": (WORDS, "ViT-demo reads images, and of text are words"),
    "tasks of images": (["model=t5-small", "DATASETS=[Digits,Arrows]"], "t5-small reads text, and of images are Digits, Arrows"),
    **{mode: (["model=t5-small", f"finetuning_mode={mode}"], f"finetuning_mode={mode} is for images, and t5-small reads text")
       for mode in ("linear", "posthoc")},
    "ia3": (["finetuning_mode=ia3"], "finetuning_mode=ia3 is for text, and ViT-demo reads images"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_model_cannot_read_is_said_before_it_is_looked_for(mistake):
    overrides, sentence = MISTAKES[mistake]
    config = compose_config(overrides)
    with pytest.raises(UserError, match=sentence) as error:
        check_modality(config, selected_tasks(config))
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    "overrides", [[], ["finetuning_mode=linear"], ["model=t5-small"], ["model=t5-small", "finetuning_mode=ia3"]]
)
def test_models_read_the_tasks_of_their_own_list_in_the_modes_they_have(overrides):
    config = compose_config(overrides)
    check_modality(config, selected_tasks(config))


GROUPS = {
    "sys/fs/cgroup": ("max", 10 * 2**30),  # no limit
    "sys/fs/cgroup/job": (8 * 2**30, 3 * 2**30),
    "sys/fs/cgroup/job/step": (6 * 2**30, 2 * 2**30),
}


@pytest.mark.parametrize(("group", "free"), [("/", 20), ("/job", 5), ("/job/step", 4), ("/elsewhere", 20)])
def test_free_memory_is_what_the_narrowest_control_group_leaves(tmp_path, group, free):
    """Mapped files are the page cache's, which gives way, so they count as free; a job's own group counts, not the root's."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {20 * 2**20} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(f"0::{group}\n")
    for folder, (limit, used) in GROUPS.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{2**40}\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon {used}\nfile {2**40}\nshmem 0\n")
    assert build._free_memory(tmp_path) == free * 2**30


def test_statistics_that_are_not_there_or_not_read_are_named_before_any_work(tmp_path):
    regmean, plain = (compose_config([f"method={name}", f"statistics=[{tmp_path}/a.safetensors]"]) for name in ("regmean", "sum"))
    with pytest.raises(UserError, match=r"there are no statistics at .*a\.safetensors; check the path"):
        check_statistics(regmean, build_method(regmean))
    with pytest.raises(UserError, match=r"method=sum needs no statistics; leave statistics= out"):
        check_statistics(plain, build_method(plain))
    with pytest.raises(UserError) as error:
        build_statistics_settings(compose_config(["statistics.split=tst", "statistics.labels=all", "statistics.examples=0"]))
    assert [problem.split(" is")[0] for problem in error.value.problems] == [
        "statistics.split", "statistics.examples", "statistics.labels"]  # fmt: skip


def test_a_wrong_option_of_statistics_ends_a_run_before_anything_is_fine_tuned(tmp_path):
    places = [f"{key}={tmp_path}" for key in ("model_location", "cache_dir", "results_dir")]
    done = run_script("main.py", "model=t5-demo", "method=fisher", "statistics.split=tst", *places, cwd=tmp_path)
    assert done.returncode == 1 and "error: statistics.split is val or train; got tst" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_start_that_is_neither_a_name_nor_a_model_is_refused():
    with pytest.raises(UserError, match=r"average, pretrained, sum or the path of a merged model, and avrage is neither"):
        build_method(compose_config(["method=cg", "method.initialisation=avrage"]))
