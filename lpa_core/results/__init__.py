"""The measured results, the paper's results, and both side by side."""

from lpa_core.results import paper
from lpa_core.results.claims import (
    CLAIMS,
    Finding,
    attention_share,
    attention_shares,
    claim_findings,
    claims_overview,
    claims_table,
    judge_claims,
)
from lpa_core.results.compare import Difference, difference, difference_text, verdict
from lpa_core.results.side_by_side import (
    NOT_RUN,
    OTHER_DATA,
    Condition,
    condition,
    figure6_beside,
    figure9_beside,
    repetitions,
    summarise,
    table1_beside,
    table2_beside,
    table3_beside,
)
from lpa_core.results.steps import CHAIN, Step, error_steps
from lpa_core.results.store import (
    DamagedRecord,
    measurements_frame,
    read_measurements,
    read_records,
    records_frame,
    seal_file,
    shipped,
    shipped_network,
)
from lpa_core.tasks.measurement import Measurement, append_measurement

__all__ = [
    "CHAIN",
    "CLAIMS",
    "NOT_RUN",
    "OTHER_DATA",
    "Condition",
    "DamagedRecord",
    "Difference",
    "Finding",
    "Measurement",
    "Step",
    "append_measurement",
    "attention_share",
    "attention_shares",
    "claim_findings",
    "claims_overview",
    "claims_table",
    "condition",
    "difference",
    "difference_text",
    "error_steps",
    "figure6_beside",
    "figure9_beside",
    "judge_claims",
    "measurements_frame",
    "paper",
    "read_measurements",
    "read_records",
    "records_frame",
    "repetitions",
    "seal_file",
    "shipped",
    "shipped_network",
    "summarise",
    "table1_beside",
    "table2_beside",
    "table3_beside",
    "verdict",
]
