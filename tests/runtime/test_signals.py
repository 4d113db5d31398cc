"""Ctrl-C: one line from the first import on, and the first signal decides the exit status."""

import signal
import subprocess
import sys

import pytest

from src.runtime.signals import INTERRUPTED, StopSignal
from tests.helpers.processes import ROOT

SLOW = "print('importing', flush=True)\nimport time\ntry:\n    time.sleep(30)\nexcept BaseException:\n    pass\n"
SCRIPTS = ["main.py", *(path.name for path in sorted(ROOT.glob("*.py")) if path.name not in ("main.py", "merging.py"))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_imports_is_one_line(script, tmp_path):
    """A module that every script imports, hydra, sleeps here, and swallows the interrupt as some modules do."""
    (tmp_path / "hydra.py").write_text(SLOW)
    command = f"import runpy, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; sys.argv = [{str(ROOT / script)!r}]; "
    command += "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors == f"{INTERRUPTED}\n"


def test_the_first_signal_is_kept_and_a_second_interrupt_ends_at_once():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # the first one, and the work stops already
        assert stop.number == signal.SIGTERM


def test_a_program_that_imports_the_function_keeps_its_own_answer_to_ctrl_c():
    script = (
        "import signal, sys\nbefore = signal.getsignal(signal.SIGINT), sys.excepthook\nimport merging\n"
        "assert (signal.getsignal(signal.SIGINT), sys.excepthook) == before"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
