"""Several runs in one process: each is the run that it is alone, and none stops another."""

import gc

import pytest
import torch

from lpa_core.__main__ import main
from lpa_core.results import read_records
from lpa_core.training import RunSpec, inputs, loop, run, run_several, several
from lpa_core.training.inputs import data_key

pytestmark = pytest.mark.usefixtures("few_test_images")

TINY = {"width": 1 / 32, "epochs": 3, "train_images": 256, "precision": "float32"}
NETWORKS, SEEDS = ("vgg", "vgg-mean2"), (0, 1)
SPECS = [RunSpec(network=n, seed=s, **TINY) for n in NETWORKS for s in SEEDS]
WORDS = [
    *("train", "--network", *NETWORKS, "--seed", "0", "1", "--width", "0.03125"),
    *("--epochs", "3", "--train-images", "256", "--precision", "float32"),
    *("--profile", "smoke", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each run by itself, by network and seed."""
    folder = tmp_path_factory.mktemp("alone")
    made = [run(s, runs=folder, device="cpu", progress=False) for s in SPECS]
    return {(r.spec.network, r.spec.seed): r for r in made}


def weights(records):
    return {(r.spec.network, r.spec.seed): r.weights_sha256 for r in records}


def test_each_of_several_is_the_run_that_it_is_alone(tmp_path, alone):
    options = {"runs": tmp_path, "device": "cpu", "progress": False}
    found = list(run_several([*SPECS, SPECS[0]], **options))  # equal ones once
    assert [o.spec for o in found] == SPECS
    assert all(o.trained and not o.error for o in found)
    assert weights(o.record for o in found) == weights(alone.values())
    again = list(run_several(SPECS, **options))
    assert [o.trained for o in again] == [False] * 4
    assert [o.record for o in again] == [o.record for o in found]


def test_runs_that_share_their_data_load_them_once(tmp_path, monkeypatch):
    """Those of another seed draw another part of the set, where a part was asked for."""
    loaded, load = [], inputs.load

    def count(dataset, split, *rest):
        loaded.append(split)
        return load(dataset, split, *rest)

    monkeypatch.setattr(inputs, "load", count)
    whole = [spec.model_copy(update={"train_images": None}) for spec in SPECS]
    monkeypatch.setattr(loop, "train", lambda *words, **named: None)  # leaves no record
    options = {"runs": tmp_path, "device": "cpu", "progress": False}
    assert all("record.json" in o.error for o in run_several(whole, **options))
    assert loaded == ["train", "test"]
    loaded.clear()
    list(run_several(sorted(SPECS, key=lambda spec: spec.seed), **options))
    assert loaded == ["train", "test"] * 2


def test_data_of_another_run_are_not_taken(tmp_path, monkeypatch):
    device = torch.device("cpu")
    data = inputs.load_data(SPECS[0], device)
    seen = []
    monkeypatch.setattr(
        loop, "train", lambda spec, data, *words, **named: seen.append(data)
    )
    other = [
        SPECS[1],
        SPECS[0].model_copy(update={"train_images": 128}),
        SPECS[0].model_copy(update={"recipe": "paper"}),
    ]
    for spec in (SPECS[0], SPECS[2], *other):
        with pytest.raises(FileNotFoundError):  # nothing was trained
            run(spec, runs=tmp_path, device="cpu", progress=False, data=data)
    assert [found is data for found in seen] == [True, True, False, False, False]


def test_a_kill_leaves_what_is_finished_and_the_same_command_goes_on(
    tmp_path, alone, monkeypatch, capsys
):
    """In the middle of the second of four runs."""
    files = ["--runs", str(tmp_path / "runs"), "--records", str(tmp_path / "r.jsonl")]
    real = loop.train_epoch

    def stop(spec, step, epoch, *words):
        if (spec.network, spec.seed, epoch) == ("vgg", 1, 2):
            raise KeyboardInterrupt
        return real(spec, step, epoch, *words)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            main([*WORDS, *files])
    assert len(read_records(tmp_path / "r.jsonl")) == 1
    capsys.readouterr()
    assert main([*WORDS, *files]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "float32: as it was asked for" in first
    assert [line.split(":")[0] for line in lines] == [spec.label() for spec in SPECS]
    assert [line.endswith(" (finished already)") for line in lines] == [True, *[False] * 3]
    records = read_records(tmp_path / "r.jsonl")
    assert weights(records) == weights(alone.values())
    assert [r.sessions for r in records] == [1, 2, 1, 1]
    before = (tmp_path / "r.jsonl").read_bytes()
    assert main([*WORDS, *files]) == 0  # nothing is left to do, and nothing recorded twice
    assert capsys.readouterr().out.count("(finished already)") == 4
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_a_run_that_fails_is_told_of_and_stops_no_other(
    tmp_path, alone, monkeypatch, capsys
):
    real = loop.train_epoch

    def fail(spec, step, epoch, *words):
        if (spec.network, spec.seed) == ("vgg", 0):
            raise FloatingPointError("the loss is not finite any more")
        if (spec.network, spec.seed) == ("vgg-mean2", 0):
            raise RuntimeError("CUDA error:\nan illegal access")
        return real(spec, step, epoch, *words)

    monkeypatch.setattr(loop, "train_epoch", fail)
    files = ["--runs", str(tmp_path / "runs"), "--records", str(tmp_path / "r.jsonl")]
    assert main([*WORDS, *files]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == [
        spec.label() for spec in SPECS if spec.seed == 1
    ]
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told == [
        f"error: {SPECS[0].label()}: the loss is not finite any more",
        f"error: {SPECS[2].label()}: RuntimeError: CUDA error: an illegal access",
        "error: 2 of 4 runs failed",
    ]
    found = weights(read_records(tmp_path / "r.jsonl"))
    assert found == {key: sha for key, sha in weights(alone.values()).items() if key[1]}


@pytest.mark.parametrize(
    "fields",
    [
        {"overrides": {"lr": 0.05}},
        {"network": "resnet18", "attach": {"layers": ["layer2"]}},
    ],
)
def test_runs_of_ones_own_are_told_apart_too(monkeypatch, fields):
    monkeypatch.setattr(several, "outcomes", lambda specs, *_: iter(specs))
    one, other = RunSpec(**fields), RunSpec(**fields, seed=1)
    found = several.run_several([one, other, one], device="cpu")
    assert list(found) == [one, other]


def test_torchrun_shares_one_run_alone(monkeypatch):
    monkeypatch.setattr(several, "several", lambda: True)
    with pytest.raises(ValueError, match="torchrun shares one run among its processes"):
        run_several(SPECS)


def test_a_card_that_does_not_answer_any_more_ends_the_list(monkeypatch):
    """After `unspecified launch failure` no call of this process reaches the card."""
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(gc.isenabled()))
    several.make_room(torch.device("cpu"), after_failure=True)
    assert not freed
    several.make_room(torch.device("cuda"), after_failure=False)
    assert len(freed) == 1
    monkeypatch.setattr(several, "choose_device", lambda name: torch.device(name))
    several.make_room(torch.device("cuda"), after_failure=True)  # it still answers
    assert len(freed) == 2

    def broken(name):
        raise ValueError("cuda fails at its first product: launch failure")

    monkeypatch.setattr(several, "choose_device", broken)
    with pytest.raises(ValueError, match="launch failure; a new process .* the same"):
        several.make_room(torch.device("cuda"), after_failure=True)
    assert len(freed) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": {"batch_size": 64}},
        {"overrides": {"preprocess": "scale"}},
        {"image_size": 40},
        {"recipe": "paper"},
        {"train_images": 100},
    ],
    ids=str,
)
def test_runs_that_see_other_data_share_none(change):
    device = torch.device("cpu")
    spec = RunSpec(network="vgg", dataset="embedded")
    alike = spec.model_copy(update={"network": "vgg-att-pc", "seed": 5, "width": 0.5})
    assert data_key(alike, device) == data_key(spec, device)
    other = RunSpec(**(spec.model_dump(exclude_unset=True) | change))
    assert data_key(other, device) != data_key(spec, device)
