"""Turn published checkpoints and heads (.pt) into safetensors, once.

    python convert_checkpoints.py checkpoints                        beside the originals
    python convert_checkpoints.py downloads --output=checkpoints     elsewhere, in the same folders
    python convert_checkpoints.py checkpoints --remove               and remove each original once its copy is compared

What is converted already is skipped. Nothing in a file is executed. An original that holds more than its conversion (EMA
weights, the optimiser's state) is never removed, and shards only all together. Masks stay as they are: published ones do
not say which checkpoints they were made of, and main.py reads them so.
"""

import argparse
import sys
from pathlib import Path

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.console import run_script, user_message
from src.checkpoints.conversion import convert, converted_path, files_of, not_converted, pickled_models
from src.errors import UserError, raise_any, shorten
from src.runtime.files import expand_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", help="with .pt files in it, at any depth")
    parser.add_argument("--output", help="where to write; default: beside each file")
    parser.add_argument(
        "--remove", action="store_true", help="remove each undamaged original all of which its conversion holds, to the bit"
    )
    options = parser.parse_args()
    folder = expand_path(options.folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the one that holds the checkpoints")
    output = expand_path(options.output or folder)
    sources = pickled_models(folder)
    if not sources:
        print(f"{folder} holds no .pt files to convert")
    problems: list[str] = []
    for source in sources:
        target = converted_path(source, output / source.relative_to(folder).parent)
        try:
            written = convert(source, target)
            print(f"{source} -> {', '.join(map(str, written))}" if written else f"{source} is converted already", flush=True)
            if options.remove:
                _remove(source, target)
        except (UserError, OSError) as error:
            problems += user_message(error) or [str(error)]
    raise_any(problems)


def _remove(source: Path, target: Path) -> None:
    """Remove a model's files. Raise UserError if they hold what the conversion does not."""
    if lacking := not_converted(source, target):
        raise UserError(f"{source} is kept: {target} has not all that it holds ({shorten(lacking)})")
    for file in files_of(source):
        file.unlink()
        print(f"{file} removed")


if __name__ == "__main__":
    sys.exit(run_script(main))
