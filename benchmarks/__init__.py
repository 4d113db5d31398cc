"""Measurements beside this machine's floors, each a program: `python -m benchmarks.merge`, and so on."""

import command_line  # noqa: F401  as the programs do, before torch: it says how threads wait
