"""The paper's experiments, one file per section; importing a file registers its task."""

import pkgutil
from importlib import import_module

from lpa_core.tasks.base import TASKS, MeasureOptions, Task, headline, measure

__all__ = ["TASKS", "MeasureOptions", "Task", "headline", "measure"]

for module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
