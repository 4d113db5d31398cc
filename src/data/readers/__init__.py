"""The forms in which a dataset's examples lie on disk, a reader each."""
