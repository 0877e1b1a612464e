"""The paper's experiments, one file a section; the import of each registers its task."""

from lpa_core.tasks import attack, transfer, segment, query, levels, parts  # noqa: I001
from lpa_core.tasks.base import TASKS, MeasureOptions, Task, headline, measure

__all__ = [
    "TASKS",
    "MeasureOptions",
    "Task",
    "attack",
    "headline",
    "levels",
    "measure",
    "parts",
    "query",
    "segment",
    "transfer",
]
