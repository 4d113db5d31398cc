"""Ctrl-C ends a program in one line, from here on: each imports this first, and `merging`, a library, does not."""

from src.runtime.signals import catch_interrupts

catch_interrupts()
