"""Merge fine-tuned models into one, choose its coefficient on validation data, score it on test data, save it.

    python main.py                                              task arithmetic on the bundled demo
    python main.py method=ties method.k=20 method.apply_lines=True
    python main.py model=files pretrained=A.safetensors finetuned=[B.pt,C.safetensors] specify_lambda=0.3 output=M.safetensors

`python main.py --help` explains the options.
"""

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line

# isort: split
import sys
from functools import partial

import hydra
from omegaconf import DictConfig

from command_line.config import export_root, validate
from command_line.console import exit_status, run_script, user_errors
from command_line.experiments import config_of_job
from command_line.start import start


@hydra.main(version_base=None, config_path="config", config_name="config")
@user_errors
def main(config: DictConfig) -> None:
    config = config_of_job(config)
    if config is None:
        return
    validate(config)
    # imported where they are needed: --help waits for no torch, and a merge of files for nothing that only scoring uses
    if config.model.family is None:
        from command_line.files import merge_files

        merge_files(config)
    else:
        from command_line.merging import merge_and_score

        merge_and_score(config)


if __name__ == "__main__":
    export_root()
    sys.exit(run_script(partial(start, main)) or exit_status())
