"""The type that a run computes in follows the hardware, whose answers are put in here.

Guarded: that emulated bfloat16 is never chosen, that float16 is scaled and trains as
float32 does, and that a card that cannot compute ends in one line.
"""

import copy
import json
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lpa_core import build_network, provenance
from lpa_core.__main__ import main
from lpa_core.training import RunSpec, build_recipe, choose_device, run, step
from lpa_core.training.optim import Optimiser
from lpa_core.training.precision import (
    autocast,
    choose_precision,
    newton_schulz_type,
    precision_and_reason,
)

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CARDS = {  # name: its compute capability, whether it has bfloat16, what is to be chosen
    "Tesla P100-PCIE-16GB": ((6, 0), False, "float32"),
    "Tesla V100-SXM2-16GB": ((7, 0), False, "float16"),
    "Tesla T4": ((7, 5), False, "float16"),
    "NVIDIA A100-SXM4-40GB": ((8, 0), True, "bfloat16"),
    "NVIDIA L4": ((8, 9), True, "bfloat16"),
    "NVIDIA H200": ((9, 0), True, "bfloat16"),
}


def put_in(monkeypatch, name, built=WHEEL):
    """A machine that answers as one with that card does."""
    capability, native, _ = CARDS[name]

    def is_bf16_supported(including_emulation=True):
        return native or (including_emulation and capability >= (7, 0))

    answers = {
        "is_available": lambda: True,
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: capability,
        "get_arch_list": lambda: built,
        "is_bf16_supported": is_bf16_supported,
        "device": lambda device: nullcontext(),
    }
    for asked, answer in answers.items():
        monkeypatch.setattr(torch.cuda, asked, answer)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_computes_in_the_shortest_type_of_its_own(monkeypatch, name):
    put_in(monkeypatch, name)
    device, wanted = torch.device("cuda"), CARDS[name][2]
    assert choose_precision("auto", device) == wanted
    assert newton_schulz_type(device) == getattr(torch, wanted)
    _, why = precision_and_reason("auto", device)
    assert why.startswith(f"{name}, {wanted}: ") and "\n" not in why
    assert choose_precision("float32", device) == "float32"


def test_on_a_processor_bfloat16_needs_instructions(monkeypatch):
    for native, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda n=native: n)
        assert choose_precision("auto", torch.device("cpu")) == wanted
    assert choose_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((6, 0), WHEEL, False),  # a P100 and a wheel of today
        ((6, 1), ["sm_60"], True),
        ((7, 0), WHEEL, False),
        ((7, 5), WHEEL, True),
        ((8, 9), WHEEL, True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), WHEEL, True),
        ((13, 0), WHEEL, False),
        ((13, 0), [*WHEEL, "compute_120"], True),
        ((12, 1), [], True),
    ],
)
def test_kernels_run_on_their_generation(capability, built, runs):
    assert provenance.has_kernels(capability, built) is runs


def test_a_card_without_kernels_ends_in_one_line(monkeypatch, capsys, tmp_path):
    put_in(monkeypatch, "Tesla P100-PCIE-16GB")
    words = ["train", "--runs", str(tmp_path), "--records", str(tmp_path / "r.jsonl")]
    assert main(words) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "Tesla P100-PCIE-16GB has compute capability 6.0" in line
    assert "has kernels for sm_75, " in line and "--device cpu" in line
    assert not any(tmp_path.iterdir())


def test_a_gpu_in_name_only_ends_in_one_line(monkeypatch):
    """As where a driver is installed and no card answers, or the card is broken."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def no_driver(*arguments, **named):
        raise RuntimeError("CUDA driver initialization failed. You might not have a GPU.\n")

    monkeypatch.setattr(torch.cuda, "get_device_name", no_driver)
    with pytest.raises(ValueError, match="first product: CUDA driver initialization") as e:
        choose_device()
    assert "--device cpu" in str(e.value) and "\n" not in str(e.value)

    put_in(monkeypatch, "Tesla T4")
    monkeypatch.setattr(torch, "ones", no_driver)
    with pytest.raises(ValueError, match="cuda fails at its first product"):
        choose_device()


# ------------------------------------------------------------------------- float16


def small(precision="float16"):
    network = build_network("vgg-att2-concat-pc", 10, 1 / 32, dropout=0.0)
    network = network.to(memory_format=torch.channels_last).train()
    return network, Optimiser(network, build_recipe("fast"), precision)


def gradients(network, optimiser, precision):
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    images = images.to(memory_format=torch.channels_last)
    with autocast(precision, torch.device("cpu")):
        logits = network(images)
    loss = nn.functional.cross_entropy(logits.float(), torch.arange(16) % 10)
    optimiser.backward(loss)
    return loss.item()


def test_a_step_in_float16_is_nearer_to_float32_than_one_in_bfloat16():
    """Three bits more: rounding grows on its way through the layers, the formula stays."""

    def moved(precision):
        torch.manual_seed(0)
        network, optimiser = small(precision)
        weight = network.trunk.layer13.conv.weight.detach()
        before = weight.clone()
        while torch.equal(weight, before):  # until the scale fits
            gradients(network, optimiser, precision)
            optimiser.update(1.0)
        return weight - before

    exact = moved("float32")
    half, brain = (
        ((moved(precision) - exact).norm() / exact.norm()).item()
        for precision in ("float16", "bfloat16")
    )
    assert half < brain / 2


def test_a_step_that_overflows_is_left_out_and_the_scale_halved():
    network, optimiser = small()
    for _ in range(6):  # the first scales are too large
        gradients(network, optimiser, "float16")
        optimiser.update(1.0)
    weights = copy.deepcopy(network.state_dict())
    state = {k: v.clone() for k, v in optimiser.state_dict().items()}
    scale = state["grad_scaler"][0].item()
    gradients(network, optimiser, "float16")
    next(iter(optimiser.filters.values())).grad[0] = torch.inf
    optimiser.update(1.0)
    for name, p in network.named_parameters():
        assert torch.equal(p, weights[name])
    after = optimiser.state_dict()
    assert after["grad_scaler"][0] == scale / 2
    for name in optimiser.matrices:
        assert torch.equal(after[name], state[name])
    gradients(network, optimiser, "float16")
    optimiser.update(1.0)
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert any(not torch.equal(p, weights[n]) for n, p in network.named_parameters())


def test_the_scale_is_kept_in_a_checkpoint_and_another_precision_goes_without():
    network, optimiser = small()
    gradients(network, optimiser, "float16")
    next(iter(optimiser.filters.values())).grad[0] = torch.nan
    optimiser.update(1.0)
    saved = optimiser.state_dict()
    assert all(torch.isfinite(t).all() for t in saved.values())
    again = Optimiser(network, build_recipe("fast"), "float16")
    again.load_state_dict(saved)
    assert torch.equal(again.state_dict()["grad_scaler"], saved["grad_scaler"])
    plain = Optimiser(network, build_recipe("fast"))
    plain.load_state_dict(saved)
    assert "grad_scaler" not in plain.state_dict()


@pytest.mark.usefixtures("few_test_images")
def test_a_run_in_float16_learns_and_a_record_says_what_computed_it(tmp_path, capsys):
    spec = RunSpec(network="vgg", width=1 / 32, epochs=2, train_images=256)
    spec = spec.model_copy(update={"precision": "float16"})
    record = run(spec, runs=tmp_path, device="cpu")
    assert record.precision == "float16"
    assert [c["precision"] for c in record.computed] == ["float16"]
    assert record.history[-1].train_loss < 2.6
    assert "float16: as it was asked for" in capsys.readouterr().out.splitlines()[0]
    assert json.loads(record.model_dump_json())["computed"] == record.computed


@pytest.mark.usefixtures("few_test_images")
def test_a_resumed_run_names_every_device(tmp_path, monkeypatch):
    spec = RunSpec(network="vgg", width=1 / 32, epochs=2, train_images=256)

    def stop(done, network):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, runs=tmp_path, device="cpu", progress=False, callback=stop)
    monkeypatch.setattr("lpa_core.training.record.device_name", lambda device: "another")
    record = run(spec, runs=tmp_path, device="cpu", progress=False)
    assert [c["device"] for c in record.computed] == [
        provenance.device_name(torch.device("cpu")),
        "another",
    ]


# ----------------------------------------------------------------------------- MPS


class WithoutFloat64(TorchDispatchMode):
    """A device such as MPS, that refuses float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {function}")
        return out


@pytest.mark.usefixtures("few_test_images", "muon_as_on_a_card")
def test_nothing_of_a_step_is_float64_on_a_device_that_has_none(tmp_path, monkeypatch):
    assert step.rate_type(torch.device("mps")) == torch.float32
    monkeypatch.setattr(step, "rate_type", lambda device: torch.float32)
    real = step.TrainStep.begin
    mode = WithoutFloat64()

    def begin(self, *arguments):
        if not entered:
            mode.__enter__()
            entered.append(True)
        real(self, *arguments)

    entered = []
    monkeypatch.setattr(step.TrainStep, "begin", begin)
    spec = RunSpec(network="vgg-att2-concat-pc", width=1 / 32, epochs=1, train_images=256)
    try:
        record = run(spec, runs=tmp_path, device="cpu", progress=False)
        with pytest.raises(TypeError, match="float64"):
            torch.ones(1).double()  # it does refuse
    finally:
        mode.__exit__(None, None, None)
    assert record.epochs == 1
