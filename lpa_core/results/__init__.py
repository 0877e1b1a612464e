"""What was measured, what the paper reports, and both side by side."""

from lpa_core.results import paper
from lpa_core.results.records import (
    DamagedRecord,
    read_records,
    shipped,
    shipped_network,
)
from lpa_core.results.tables import (
    NOT_RUN,
    summarise,
    table1_beside,
    table2_beside,
)

__all__ = [
    "NOT_RUN",
    "DamagedRecord",
    "paper",
    "read_records",
    "shipped",
    "shipped_network",
    "summarise",
    "table1_beside",
    "table2_beside",
]
