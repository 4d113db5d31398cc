"""Tasks: their examples by split, and the datasets that these are read from."""
