"""The command line: from what a user types to objects, and from exceptions to sentences; it alone knows of Hydra."""
