"""Turn published checkpoints and heads (.pt) into safetensors, once.

    python convert_checkpoints.py checkpoints                        beside the originals
    python convert_checkpoints.py downloads --output=checkpoints     elsewhere, in the same folders
    python convert_checkpoints.py checkpoints --remove               and remove each original once its copy is compared

What is converted already is skipped. Nothing in a file is executed. Masks stay as they are: published ones do not say
which checkpoints they were made of, and main.py reads them so.
"""

import argparse
import sys

from command_line.console import run_script, user_message
from src.checkpoints.conversion import convert, is_converted, pickled_files
from src.errors import UserError, raise_any
from src.pickles.archives import check_contents
from src.runtime.files import expand_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="with .pt files in it, at any depth")
    parser.add_argument("--output", help="where to write; default: beside each file")
    parser.add_argument(
        "--remove", action="store_true", help="remove each undamaged original whose conversion equals it to the bit"
    )
    options = parser.parse_args()
    folder = expand_path(options.folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the one that holds the checkpoints")
    output = expand_path(options.output or folder)
    sources = pickled_files(folder)
    if not sources:
        print(f"{folder} holds no .pt files to convert")
    problems: list[str] = []
    for source in sources:
        target = (output / source.relative_to(folder)).with_suffix(".safetensors")
        try:
            written = convert(source, target)
            print(f"{source} -> {', '.join(map(str, written))}" if written else f"{source} is converted already", flush=True)
            if options.remove:
                check_contents(source)  # else damaged bytes would be all that is left, and equal to the bit
                if is_converted(source, target):
                    source.unlink()
                    print(f"{source} removed")
                else:
                    problems.append(f"{source} is kept: its conversion is another; remove {target} and run this again")
        except (UserError, OSError) as error:
            problems += user_message(error) or [str(error)]
    raise_any(problems)


if __name__ == "__main__":
    sys.exit(run_script(main))
