"""No two jobs of a sweep write to one place."""

import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line.overrides import parse_overrides
from command_line.sweeps import check_sweep
from src.errors import UserError
from tests.helpers.processes import run_script


@pytest.mark.parametrize(
    "texts",
    [
        ("method=sum,ties", "output=m.safetensors"),
        ("method=sum,ties", "specify_lambda=0.1,0.2", "output=a,b"),
        ("method.k=choice(10,20)", "output='a folder/m.safetensors'"),
    ],
)
def test_one_output_for_several_jobs_is_refused_and_a_way_is_said(texts):
    with pytest.raises(UserError, match=r"jobs of this sweep, too; give each its own: ") as excinfo:
        check_sweep(texts)
    for sentence in excinfo.value.problems:
        (suggestion,) = shlex.split(sentence.partition("its own: ")[2])
        (override,), problems = parse_overrides([suggestion])
        assert not problems and "${hydra:job.num}" in override.value()


@pytest.mark.parametrize(
    "texts",
    [
        ("method=sum,ties",), ("output=m.safetensors", "method=sum"), ("output=a,b", "method=sum"),
        ("method=sum,ties", "output=m-${hydra:job.num}.safetensors"), ("method=sum,ties", "output=null"),
    ],
)  # fmt: skip
def test_outputs_that_may_differ_are_left_to_the_jobs(texts):
    check_sweep(texts)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("method=glob(Q*)", "method=glob(Q*) matches none of TSVC, TSVM"),
        ("num_tasks=range(3,1)", "num_tasks=range(3,1) gives no value to try; name some, such as num_tasks=1,2"),
        ("output=glob(*)", "output=glob(*) gives no value to try"),
    ],
)
def test_a_sweep_of_no_jobs_is_refused(text, sentence):
    with pytest.raises(UserError) as excinfo:
        check_sweep([text])
    assert excinfo.value.problems[0].startswith(sentence)


def test_a_pattern_chooses_among_all_configurations_the_users_own_too(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "quick.yaml").write_text("_target_: quick.Quick\n")
    check_sweep(["method=glob(ties*)"])
    check_sweep(["method=glob(q*)"], folders=[str(tmp_path)])
    with pytest.raises(UserError, match="by 2 jobs"):
        check_sweep(["method=glob([sum,q*])", "output=m.safetensors"], folders=[str(tmp_path)])


def test_the_jobs_of_a_sweep_keep_what_each_wrote(tmp_path):
    base = {"w": torch.zeros(3)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors")
    command = [
        "main.py",
        "-m",
        "model=files",
        "pretrained=base.safetensors",
        "finetuned=[a.safetensors]",
        "specify_lambda=0.1,0.2",
    ]
    done = run_script(*command, "output=m-${hydra:job.num}.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number, value in enumerate((0.1, 0.2)):
        assert load_file(tmp_path / f"m-{number}.safetensors")["w"][0] == pytest.approx(value)
    done = run_script(*command, "output=n-${method.apply_lines}.safetensors", cwd=tmp_path)
    assert done.returncode == 1 and "output=n-False.safetensors would be written by another job of this sweep" in done.stderr, (
        done.stderr
    )
    assert load_file(tmp_path / "n-False.safetensors")["w"][0] == pytest.approx(0.1)
