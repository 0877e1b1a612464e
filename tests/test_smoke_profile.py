"""Every network of Table 1 trains in the smoke profile, in seconds.

The residual network with two blocks a stage stands for the one with 164 layers, which
takes longer than a smoke test may. A quarter of the images is enough to see the speed.
"""

import math
import time

import pytest
import torch

from lpa_core.notebook import PROFILES
from lpa_core.results import paper
from lpa_core.training import RunSpec, run

SHORT = {"rn164": "rn20"}
# Seconds of processor time for an epoch of the profile, whatever else the machine does.
# Without bfloat16 instructions a network trains in float32.
LIMIT = 20 if torch.cpu._is_avx512_bf16_supported() else 60
SHARE = 4


@pytest.mark.slow
@pytest.mark.usefixtures("few_test_images")
@pytest.mark.parametrize("network", paper.table1())
def test_a_network_of_table_1_trains_an_epoch_in_seconds(network, tmp_path):
    smoke = PROFILES["smoke"] | {"network": SHORT.get(network, network), "epochs": 1}
    smoke["train_images"] //= SHARE
    begin = time.process_time()
    record = run(RunSpec(**smoke), runs=tmp_path, progress=False)
    assert time.process_time() - begin < LIMIT / SHARE
    assert record.metrics["train_error"] < 95  # chance is 90
    assert math.isfinite(record.metrics["test_loss"])
