"""A step is a function of tensors that stay where they are: recorded once, it replays.

`stand_in` replays on the CPU as a CUDA graph does on a card.
"""

import warnings

import pytest
import torch
from stand_in import Recorder, StandIn

from lpa_core.training import RunSpec, build_recipe, lr_factor, run
from lpa_core.training import loop as training_loop
from lpa_core.training.inputs import initial_network, load_data
from lpa_core.training.loop import train_epoch
from lpa_core.training.optim import Optimiser
from lpa_core.training.step import WARM_UP, TrainStep, rate_type

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("muon_as_on_a_card")


def spec_of(network="vgg-att2-concat-pc", precision="float32", **fields):
    fields = {"width": 1 / 32, "epochs": 5, "train_images": 128 * 6} | fields
    return RunSpec(network=network, precision=precision, **fields)


def trained(spec, capture, epochs, seed=0):
    """A network after some epochs, their losses, and the step."""
    data = load_data(spec, CPU)
    network, _ = initial_network(spec, data)
    network = network.to(memory_format=torch.channels_last)
    optimiser = Optimiser(network, spec.chosen_recipe(), spec.precision)
    step = TrainStep(
        network,
        data.train,
        optimiser,
        precision=spec.precision,
        label_smoothing=spec.chosen_recipe().label_smoothing,
        capture=capture,
    )
    told = [train_epoch(spec, step, epoch) for epoch in epochs]
    return network, told, step


@pytest.mark.parametrize(
    ("network", "recipe", "precision"),
    [
        ("vgg-att2-concat-pc", "fast", "float32"),
        ("vgg", "fast", "float16"),
        ("vgg-att3-indep-dp", "paper", "float32"),
        ("rn20-att2", "fast", "bfloat16"),
    ],
)
def test_a_replayed_step_is_the_step(network, recipe, precision):
    """Images, draws, rates, counters, dropout and the scale all come from tensors."""
    width = 1 / 8 if network.startswith("rn") else 1 / 32
    spec = spec_of(network, precision, recipe=recipe, width=width)
    plain, told, _ = trained(spec, None, range(2))
    stand_in = StandIn()
    replayed, told_again, step = trained(spec, stand_in, range(2))
    assert len(stand_in.recordings) == 1  # both epochs are of one size
    assert step.capture is stand_in
    for (name, one), two in zip(
        plain.state_dict().items(), replayed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6, msg=name)
    for one, two in zip(told, told_again, strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_each_size_is_recorded_once_after_its_warm_up():
    stand_in = StandIn()
    _, _, step = trained(spec_of(), stand_in, range(5))
    sizes = {20, 24, 28, 32}
    assert set(step.replays) == sizes == set(step.calls)
    assert len(stand_in.recordings) == len(sizes)
    assert set(step.calls.values()) == {WARM_UP}


def test_a_wait_for_the_device_is_noticed_and_the_run_goes_on_with_one_line():
    """As a network would make it that looks at a number in its forward pass."""
    spec = spec_of()
    wanted, _, _ = trained(spec, None, range(1))

    def waits(function):
        with Recorder():
            torch.ones(1).item()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network, _, step = trained(spec, waits, range(1))
    (said,) = [str(w.message) for w in caught if "CUDA graph" in str(w.message)]
    assert "going on without: RuntimeError: _local_scalar_dense: operation not" in said
    assert "\n" not in said
    assert step.capture is None and not step.replays
    for one, two in zip(wanted.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_number_of_python_in_the_step_would_show():
    """The stand-in tells: a rate that is no tensor stays what it was when recorded."""
    spec = spec_of(epochs=5)

    class Stale(Optimiser):
        def update(self, lr_factor):
            self.step(float(self.rates.pop(0)))

    def moved(capture):
        data = load_data(spec, CPU)
        network, _ = initial_network(spec, data)
        network = network.to(memory_format=torch.channels_last)
        optimiser = Stale(network, spec.chosen_recipe())
        optimiser.rates = [0.1, 0.2, 0.3, 0.4, 5.0, 6.0]
        step = TrainStep(network, data.train, optimiser, capture=capture)
        train_epoch(spec, step, 0)
        return (
            network.classifier.weight
            if hasattr(network, "classifier")
            else next(p for n, p in network.named_parameters() if "classifier" in n)
        )

    assert not torch.allclose(moved(None), moved(StandIn()), atol=1e-4)


def test_the_schedule_lies_on_the_device():
    spec = spec_of()
    _, told, step = trained(spec, None, range(3))
    recipe, steps = build_recipe("fast"), 6
    wanted = [lr_factor(recipe, 12 + number, steps, 5) for number in range(steps)]
    assert step.factors.tolist() == wanted  # to the last bit on a CPU
    assert told[2][2] == recipe.lr * wanted[-1]
    assert step.step.item() == steps
    assert (
        rate_type(torch.device("cuda")) == rate_type(torch.device("mps")) == torch.float32
    )


@pytest.mark.usefixtures("few_test_images")
def test_a_replayed_run_taken_up_again_ends_with_the_same_weights(tmp_path, monkeypatch):
    """Interrupted in the middle; what is recorded anew after it starts from other steps."""
    monkeypatch.setattr(training_loop, "cuda_capture", lambda device: StandIn())
    spec = spec_of(epochs=3)

    def stop(done, network):
        if done == 2 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt

    stopped = []
    straight = run(spec, runs=tmp_path / "straight", device="cpu", progress=False)
    with pytest.raises(KeyboardInterrupt):
        run(spec, runs=tmp_path / "cut", device="cpu", progress=False, callback=stop)
    resumed = run(spec, runs=tmp_path / "cut", device="cpu", progress=False)
    assert resumed.sessions == 2
    assert resumed.weights_sha256 == straight.weights_sha256
    plain = run(spec, runs=tmp_path / "again", device="cpu", progress=False)
    assert plain.weights_sha256 == straight.weights_sha256
