"""Benchmarks, compared with what this machine can do at most; each is a program: `python -m benchmarks.merge`, and so on."""

import command_line.interrupts  # noqa: F401  as the programs do, before torch: the package says how threads wait
