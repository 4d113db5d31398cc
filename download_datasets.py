"""Download datasets before they are needed, where there is a network: main.py does the same when it starts.

    python download_datasets.py                                   the twenty tasks of tasks=vision
    python download_datasets.py --datasets=MNIST,Cars             these
    python download_datasets.py tasks=p3_eight_qa                 the eight question-answering tasks
    python download_datasets.py --config-dir=own tasks=mine data_location=/data    any option of config/ after the flags

What is there is not fetched again. Datasets that nobody serves are listed with the folders they are looked for in.
"""

import sys

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import compose_config
from command_line.console import ProgressBar, run_script
from command_line.flags import CONFIG_DIR, DATA_LOCATION, TASKS, Flag, parse_flags
from command_line.preflight import selected_tasks
from src.data.registry import require_data
from src.errors import plural

FLAGS = (Flag("datasets", "DATASETS", TASKS), DATA_LOCATION, CONFIG_DIR)


def main() -> None:
    overrides, _ = parse_flags(__doc__, FLAGS)
    has_list = any(text.startswith(("tasks=", "model=")) for text in overrides)
    config = compose_config([*([] if has_list else ["tasks=vision"]), *overrides])
    tasks = selected_tasks(config)
    for task in tasks:
        if not task.problems():
            print(f"{task.name} is there")
    with ProgressBar(unit="B") as bar:
        require_data([task for task in tasks if task.is_fetchable], True, bar)
    require_data(tasks, download=False)
    print(f"{plural(len(tasks), 'dataset')} below {config.data_location}")


if __name__ == "__main__":
    sys.exit(run_script(main))
