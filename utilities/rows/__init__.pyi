from .columns import columns_for as columns_for
from .near_duplicates import (
    join_groups as join_groups,
    near_duplicate_pairs as near_duplicate_pairs,
)
from .patches import PatchEntry as PatchEntry, row_hash as row_hash
from .readers import (
    RawRow as RawRow,
    find_files as find_files,
    read_files as read_files,
    read_table as read_table,
)
from .sources import (
    ConfigSource as ConfigSource,
    Source as Source,
    raw_rows as raw_rows,
    read_rows as read_rows,
    stream_rows as stream_rows,
)
from .splitting import assign_parts as assign_parts, split_rows as split_rows
