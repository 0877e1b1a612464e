"""Training computes what it computed: tiny runs against golden.json.

For each recipe and each kind of network: the losses of the first steps, the weights' norms,
how far the weights moved, and a digest of them. A processor rounds as it likes, so numbers
are compared with a tolerance; the digest is compared where the golden file was written, on
that processor with that torch.

    python tests/test_golden.py     writes golden.json anew

It refuses where a run changed whose training version did not.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lpa_core import build_network
from lpa_core.data import build_preprocess
from lpa_core.provenance import device_name, identify, write_whole
from lpa_core.training import RECIPES, RunSpec, inputs, run, training_version
from lpa_core.training.checkpoint import write_pair

GOLDEN = Path(__file__).with_name("golden.json")
WIDTH, EPOCHS = 1 / 16, 3  # of one step each, so that an epoch's loss is a step's
NEAR = {"losses": 5e-3, "test_loss": 5e-3, "norm": 1e-3, "moved": 2e-2}  # relative
KINDS = (
    *("vgg", "vgg-hires", "vgg-mean2", "vgg-gap", "vgg-gap-coarse", "vgg-pan"),
    *("vgg-att2-concat-pc", "vgg-att3-indep-dp", "vgg-att2-concat-tanh"),
)
RUNS = {
    **{f"fast {name}": {"network": name} for name in KINDS},
    **{f"fast {name}": {"network": name, "width": 1 / 4} for name in ("rn20", "rn20-att2")},
    "paper": {"network": "vgg-att2-concat-pc", "recipe": "paper"},
    "paper-svhn": {"network": "vgg", "recipe": "paper-svhn"},
    "paper-svhn-unflipped": {"network": "vgg", "recipe": "paper-svhn-unflipped"},
    "scripts' beginning": {"network": "vgg-att2-concat-pc", "initialisation": "scripts"},
    "scale of u": {"network": "vgg-att2-concat-pc", "query_std": 0.2},
    "paper-cub": {"network": "vgg-att2-indep-pc", "recipe": "paper-cub", "initial": "…"},
    "paper-rn": {"network": "rn20", "width": 1 / 4, "recipe": "paper-rn"},
    "added log-probabilities": {
        "network": "vgg-att2-indep-dp",
        "add_log_probabilities": True,
    },
    "averaged gradients": {"network": "vgg-att2-concat-pc", "average_gradients": True},
}


def made_on() -> dict[str, str]:
    """Where the same weights come out bit for bit."""
    return {
        "device": device_name(torch.device("cpu")),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def start(folder: Path, network: str) -> str:
    """Weights to start from, which say that they were trained on CIFAR-100."""
    torch.manual_seed(1)
    net = build_network(network, num_classes=100, width=WIDTH)
    tensors = {f"network.{name}": tensor for name, tensor in net.state_dict().items()}
    facts = {"network": network, "width": WIDTH, "dataset": "cifar100"}
    write_pair(folder / "start.safetensors", tensors, facts)
    return str(folder / "start.safetensors")


def norm(tensors) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def golden_run(name: str) -> dict:
    """What a tiny run comes to, on one thread of the CPU."""
    seen, load = {}, inputs.load
    fields = {"recipe": "fast", "width": WIDTH} | RUNS[name]

    def a_few(*given):
        data = load(*given)
        return replace(data, images=data.images[:250], labels=data.labels[:250], masks=None)

    def quick(preprocess):  # ZCA takes a minute, and has tests of its own
        return build_preprocess("scale" if preprocess == "zca" else preprocess)

    def callback(epochs, network):
        seen[epochs] = {k: v.clone() for k, v in network.state_dict().items()}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.multiple(inputs, load=a_few, build_preprocess=quick),
            # Newton-Schulz in float32 everywhere: bfloat16's rounding grows to a per cent.
            patch.object(torch.cpu, "_is_avx512_bf16_supported", lambda: False),
        ):
            if "initial" in fields:
                fields["initial"] = start(Path(folder), fields["network"])
            spec = RunSpec(
                **fields,
                epochs=EPOCHS,
                train_images=RECIPES[fields["recipe"]].batch_size,
                precision="float32",
            )
            record = run(spec, runs=folder, device="cpu", progress=False, callback=callback)
    finally:
        torch.set_num_threads(threads)
    before, after = seen[0], seen[EPOCHS]
    digest = hashlib.sha256()
    for tensor in after.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    floats = [key for key in after if after[key].is_floating_point()]
    return {
        "training_version": training_version(spec),
        "recipe": identify(spec.chosen_recipe().content()),
        "losses": [epoch.train_loss for epoch in record.history],
        "test_loss": record.metrics["test_loss"],
        "norm": norm(after[key] for key in floats),
        "moved": norm(after[key] - before[key] for key in floats),
        "digest": digest.hexdigest(),
    }


def differences(found: dict, golden: dict, exact: bool) -> list[str]:
    """What a run came to otherwise than the golden one, in words."""
    said = []
    for name, near in (
        ("losses", 5e-3),
        ("test_loss", 5e-3),
        ("norm", 1e-3),
        ("moved", 2e-2),
    ):
        if found[name] != pytest.approx(golden[name], rel=near):
            said.append(f"{name} {found[name]}, golden {golden[name]}")
    if found["recipe"] != golden["recipe"]:
        said.append("the recipe's content is another")
    if exact and found["digest"] != golden["digest"]:
        said.append("the weights are not the same bit for bit")
    return said


def verdict(name: str, found: dict, golden: dict, exact: bool) -> str:
    """Why the golden file does not hold for a run; "" where it does."""
    said = "; ".join(differences(found, golden, exact))
    command = "python tests/test_golden.py"
    if found["training_version"] != golden["training_version"]:
        return (
            f"{name}: training is of version {found['training_version']} now, the golden "
            f"file of version {golden['training_version']}: write a new one, `{command}`"
        )
    if said:
        return (
            f"{name}: training changed ({said}), and its version did not. If results are "
            "not meant to change, this is a fault. If they are, add an entry to "
            "TRAINING_CHANGES in lpa_core/training/config.py and to CHANGELOG.md, then "
            f"write a new golden file, `{command}`"
        )
    return ""


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", RUNS)
def test_training_computes_what_it_computed(golden, name):
    exact = golden["made_on"] == made_on()
    said = verdict(name, golden_run(name), golden["runs"][name], exact)
    assert not said, said


def test_each_recipe_has_a_golden_run(golden):
    assert golden["runs"].keys() == RUNS.keys()
    assert {fields.get("recipe", "fast") for fields in RUNS.values()} == set(RECIPES)


def test_a_change_is_told_from_a_new_version(golden):
    run_of = golden["runs"]["paper"]
    assert verdict("paper", dict(run_of), run_of, exact=True) == ""
    rounded = run_of | {"digest": "0", "norm": run_of["norm"] * (1 + 1e-6)}
    assert verdict("paper", rounded, run_of, exact=False) == ""
    assert "bit for bit" in verdict("paper", rounded, run_of, exact=True)
    other = run_of | {"losses": [loss * 1.02 for loss in run_of["losses"]]}
    assert "add an entry to TRAINING_CHANGES" in verdict("paper", other, run_of, False)
    other = run_of | {"recipe": "another"}
    assert "the recipe's content is another" in verdict("paper", other, run_of, False)
    other = run_of | {"training_version": 99}
    assert "write a new one" in verdict("paper", other, run_of, False)


def main() -> None:
    """Write the golden file, unless results changed and no version was raised."""
    here = made_on()
    old = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"runs": {}, "made_on": {}}
    runs = {name: golden_run(name) for name in RUNS}
    for name, found in runs.items():
        before = old["runs"].get(name, found)
        said = verdict(name, found, before, exact=old["made_on"] == here)
        if said and before["training_version"] == found["training_version"]:
            sys.exit(said)
    text = json.dumps({"made_on": here, "runs": runs}, indent=1) + "\n"
    write_whole(GOLDEN, text.encode())
    print(f"{GOLDEN.name}: {len(runs)} runs")


if __name__ == "__main__":
    main()
