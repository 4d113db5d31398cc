"""The command line: from what a user types to objects, and from exceptions to sentences; it alone knows of Hydra."""

from src.runtime.openmp import limit_spinning

limit_spinning()  # here, because every program imports something of this package before it imports torch
