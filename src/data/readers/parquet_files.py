"""Parquet files, opened once what they claim to hold is in proportion to their bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

from src.errors import UserError

if TYPE_CHECKING:  # imported where it is used: it takes long, and few runs need it
    from pyarrow.parquet import FileMetaData, ParquetFile

# A column of a row group may claim eight times the bytes of its file, for images are compressed already, or 256 MiB;
# a file may claim a row for each of its bytes, or a million.
CLAIM, LEAST_CLAIM, LEAST_ROWS = 8, 2**28, 2**20
LARGEST_DICTIONARY = 2**31  # bytes of pyarrow's


def checked_metadata(path: Path) -> "FileMetaData":
    """Return the metadata of a file. Raise UserError if what it claims to hold is out of proportion."""
    import pyarrow.parquet

    metadata, size = pyarrow.parquet.read_metadata(path), path.stat().st_size
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    claims = [group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)]
    rows = [group.num_rows for group in groups]
    if max(claims, default=0) > max(LEAST_CLAIM, CLAIM * size) or sum(rows) > max(LEAST_ROWS, size) or min(rows, default=0) < 0:
        raise UserError(
            f"{path} has {size:,} bytes and claims to hold {max(claims, default=0):,} bytes in one column and {sum(rows):,} "
            f"rows; get it again, or write it in smaller row groups"
        )
    return metadata


def open_parquet(path: Path) -> "ParquetFile":
    """Return a file, opened; words and bytes come as dictionaries, so that a value that many rows share is in memory once.

    Those of files of more than 256 MiB do not: a dictionary holds 2 GiB at most.
    """
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    is_small = CLAIM * path.stat().st_size <= LARGEST_DICTIONARY
    words = [leaf.path for leaf in leaves if is_small and leaf.physical_type == "BYTE_ARRAY"]
    return pyarrow.parquet.ParquetFile(path, metadata=metadata, read_dictionary=words)
