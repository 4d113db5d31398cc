"""Start a script under Hydra, with errors of its command line as sentences."""

import sys
from collections.abc import Callable

from hydra._internal import utils

from command_line.composition import explained
from command_line.experiments import with_runs
from command_line.overrides import expanded
from command_line.sweeps import check_sweep
from src.errors import UserError, raise_any


def start(main: Callable[[], None]) -> None:
    """Run a script of `hydra.main` with the arguments of this process. Raise UserError for all that is wrong with them."""
    sys.argv[1:] = map(expanded, sys.argv[1:])
    parser = utils.get_args_parser()
    parser.error = lambda message: raise_any([f"{message}; --help lists the options, --hydra-help the flags"])
    arguments, others = parser.parse_known_args()
    if others:
        raise UserError(
            f"{' '.join(others)}: options are key=value without dashes, all before or all after flags such as -m (see --help)"
        )
    if sum(map(bool, (arguments.run, arguments.multirun, arguments.cfg, arguments.info, arguments.shell_completion))) > 1:
        raise UserError("only one of --run, -m, --cfg and --info can be done at a time; leave out the others")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UserError("--resolve is for --cfg and --help; leave it out")
    folders = [arguments.config_dir] if arguments.config_dir else []
    sweep = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
    sys.argv[1:] = with_runs(sys.argv[1:], sweep, folders)
    arguments = parser.parse_args()
    utils.run_and_report = lambda function: function()  # Hydra's own prints what it catches, in several lines
    name = arguments.config_name or "config"
    with explained(arguments.overrides, name, folders, sweep):
        if sweep:
            check_sweep(arguments.overrides, name, folders)
        main()
