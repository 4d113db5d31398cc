"""The command line: builds objects from the configuration and prints errors as sentences; it alone imports Hydra."""

from src.runtime.openmp import limit_spinning

# Here, because every program imports something of this package before it imports torch.
limit_spinning()
