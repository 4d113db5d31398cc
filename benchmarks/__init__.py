"""Benchmarks, compared with what this machine can do at most; each is a program: `python -m benchmarks.merge`, and so on."""

import command_line  # noqa: F401  as the programs do, before torch: it says how threads wait
