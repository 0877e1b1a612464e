"""ONNX files of trained networks, run by onnxruntime and compared with torch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lpa_core.cli import main
from lpa_core.data import build_preprocess, load_photographs
from lpa_core.networks import build_network
from lpa_core.results import shipped
from lpa_core.training import export, export_onnx, load_trained
from lpa_core.training.checkpoint import write_pair
from lpa_core.training.config import network_version

CLASSES = ["one", "two", "three"]


def weights_of(folder, name, preprocess="mean-std"):
    """Random weights, in full precision, of a narrow network."""
    network = build_network(name, num_classes=3, width=0.125)
    for buffer in network.buffers():  # as no training has left them
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    normalise = build_preprocess(preprocess)
    normalise.fit(torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8))
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"preprocess.{k}": v for k, v in normalise.state_dict().items()}
    facts = {"network": name, "width": 0.125, "image_size": 32, "dropout": None}
    facts |= {"classes": CLASSES, "preprocess": preprocess, "dataset": "none"}
    facts |= {"training_version": network_version(name)}
    write_pair(folder / f"{name}.safetensors", tensors, facts)
    return folder / f"{name}.safetensors"


def differences(source, target, images):
    """Of logits and each map, the largest difference between onnxruntime and torch."""
    trained = load_trained(source)
    seen = trained.attend(images)
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    pixels = images.permute(0, 3, 1, 2).float().div(255).numpy()
    got = session.run(None, {"images": pixels})
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", *seen.maps]
    wanted = [seen.logits, *seen.maps.values()]
    return {
        name: float(np.abs(a - b.numpy()).max())
        for name, a, b in zip(names, got, wanted, strict=True)
    }


@pytest.mark.slow
def test_a_shipped_network_gives_what_torch_gives_at_any_batch_size(tmp_path, capsys):
    source = shipped("weights") / "vgg-att3-concat-pc_cifar10_w0.25.safetensors"
    target = tmp_path / "net.onnx"
    assert main(["export", str(source), str(target), "--format", "onnx"]) == 0
    assert "net.onnx: logits, layer7, layer10, layer13" in capsys.readouterr().out
    _, photographs = load_photographs()
    for images in (photographs, photographs[:1]):
        found = differences(source, target, images)
        assert max(found.values()) < 1e-4, found
    # Shipped weights are in half precision, and stay so: the file is as small as they are.
    assert target.stat().st_size < 1.05 * source.stat().st_size


@pytest.mark.slow
def test_the_file_says_what_it_is_and_nothing_of_the_machine(tmp_path):
    source = weights_of(tmp_path, "vgg-att2-concat-dp")
    target = tmp_path / "net.onnx"
    export_onnx(source, target)
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    said = {p.key: p.value for p in model.metadata_props}
    assert json.loads(said["classes"]) == CLASSES
    assert said["network"] == "vgg-att2-concat-dp"
    content = target.read_bytes()
    assert b"stack_trace" not in content and str(tmp_path).encode() not in content
    assert b"site-packages" not in content
    again = tmp_path / "again.onnx"
    export_onnx(source, again)
    assert again.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("vgg-gap", "mean-std"),
        ("vgg-pan", "yuv"),
        ("vgg-att2-concat-tanh", "zca"),
        ("vgg-att2-indep-dp", "mean-std"),
    ],
)
def test_every_kind_of_network_and_normalisation(tmp_path, name, preprocess):
    source = weights_of(tmp_path, name, preprocess)
    target = tmp_path / "net.onnx"
    export_onnx(source, target)
    found = differences(source, target, load_photographs()[1])
    assert max(found.values()) < 1e-3, found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.safetensors", "net.onnx"], "error: no whole weights at gone.safetensors"),
        (["gone.safetensors", "net.bin"], "error: net.bin: an ONNX file must end in .onnx"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words, "--format", "onnx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    source = weights_of(tmp_path, "vgg")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        export.ExportError, match="missing package \\(onnxscript\\): pip install"
    ):
        export_onnx(source, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_nothing_else_needs_onnx():
    """lpa_core.training is imported where no ONNX is installed."""
    code = (
        "import sys; import lpa_core.training; "
        "assert not {'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
