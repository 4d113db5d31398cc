"""Download datasets before they are needed, where there is a network: main.py does the same when it starts.

    python download_datasets.py                                   the twenty tasks of tasks=vision
    python download_datasets.py --datasets=MNIST,Cars             these
    python download_datasets.py tasks=p3_eight_qa                 the eight question-answering tasks
    python download_datasets.py tasks=mine data_location=/data    any option of config/ after the flags

What is there is not fetched again. Datasets that nobody serves are listed with the folders they are looked for in.
"""

import argparse
import sys

from command_line.config import compose_config
from command_line.console import ProgressBar, run_script
from command_line.preflight import selected_tasks
from src.data.registry import require_data
from src.errors import plural


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", help="task names with commas between them; default: the list in tasks=")
    parser.add_argument("overrides", nargs="*", help="key=value, as main.py takes them")
    options = parser.parse_intermixed_args()
    task_list = [] if any(text.startswith("tasks=") for text in options.overrides) else ["tasks=vision"]
    task_names = [f"DATASETS=[{options.datasets}]"] if options.datasets else []
    config = compose_config([*task_list, *options.overrides, *task_names])
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
