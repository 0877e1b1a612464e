"""The batch: what a profile needs, what is done already, and what the rest costs."""

from lpa_core.plan.grid import GRIDS, Grid, GridError, read_grid
from lpa_core.plan.plan import Places, Plan, Step, make_plan, plan_table, total, write_plan

__all__ = [
    "GRIDS",
    "Grid",
    "GridError",
    "Places",
    "Plan",
    "Step",
    "make_plan",
    "plan_table",
    "read_grid",
    "total",
    "write_plan",
]
