"""Start a script under Hydra, with errors of its command line as sentences."""

from collections.abc import Callable

from hydra._internal import utils

from command_line.composition import explained
from src.errors import UserError


def start(main: Callable[[], None]) -> None:
    """Run a script of `hydra.main` with the arguments of this process. Raise UserError for all that is wrong with them."""
    parser = utils.get_args_parser()
    parser.error = _refuse
    arguments, others = parser.parse_known_args()
    if others:
        _refuse(f"unrecognized arguments: {' '.join(others)}")
    if sum(map(bool, (arguments.run, arguments.multirun, arguments.cfg, arguments.info, arguments.shell_completion))) > 1:
        _refuse("only one of --run, -m, --cfg and --info")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        _refuse("--resolve is for --cfg")
    folders = [arguments.config_dir] if arguments.config_dir else []
    sweep = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
    utils.run_and_report = lambda function: function()  # Hydra's own prints what it catches, in several lines
    with explained(arguments.overrides, arguments.config_name or "config", folders, sweep):
        main()


def _refuse(message: str) -> None:
    """Raise UserError for arguments that no parser takes."""
    raise UserError(f"{message}; options are key=value without dashes, all before or all after flags such as -m (see --help)")
