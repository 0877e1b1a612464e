"""The batch: what a profile needs, what of it is there, and what the rest costs."""

from lpa_core.plan.grid import GRIDS, Grid, GridError, read_grid
from lpa_core.plan.plan import Places, Plan, Step, make_plan, plan_table, total, write_plan
from lpa_core.plan.same_code import Comparison, read_comparisons, same_as, show_same

__all__ = [
    "GRIDS",
    "Comparison",
    "Grid",
    "GridError",
    "Places",
    "Plan",
    "Step",
    "make_plan",
    "plan_table",
    "read_comparisons",
    "read_grid",
    "same_as",
    "show_same",
    "total",
    "write_plan",
]
