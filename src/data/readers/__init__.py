"""Readers of examples on disk: image folders, parquet files, and the formats that torchvision reads."""
