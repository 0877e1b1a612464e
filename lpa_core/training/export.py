"""A trained network as an ONNX file: one graph from RGB pixels to logits and maps.

Other programs run it without torch: onnxruntime, and the page of this book that shows the
maps of a reader's own photograph. To export only weights, use `export_weights` in
`checkpoint`.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpa_core.provenance import check_appendable, write_whole
from lpa_core.training.checkpoint import Trained, load_trained

__all__ = ["ExportError", "export_onnx"]

OPSET = 20
# Smaller tensors stay in float32: an extra node would cost more than it saves.
SMALLEST_HALF = 64


class ExportError(RuntimeError):
    """A network cannot be exported to ONNX here."""


class Graph(nn.Module):
    """The exported graph: images (B, 3, S, S) in [0, 1] to logits and one map per level."""

    def __init__(self, trained: Trained):
        super().__init__()
        self.preprocess, self.network = trained.preprocess, trained.network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = self.network.attend(self.preprocess(images))
        return seen.logits, *seen.maps.values()


def export_onnx(source: str | Path, target: str | Path) -> list[str]:
    """Export the weights of a run, or shipped ones, as an ONNX file.

    The input is `images`, float32 (B, 3, S, S), RGB in [0, 1]: the normalisation is part
    of the graph. The outputs are `logits` (B, K) and the maps (B, h, w), named after their
    layers. B is free. The file's metadata contain the facts of the weights, including the
    class names. Tensors that float16 represents exactly are stored in float16 and cast when
    the file is loaded, so nothing is rounded.

    Returns:
        The names of the outputs.

    Raises:
        WeightsError: the weights at `source` are missing, incomplete or altered.
        ExportError: the target does not end in .onnx, or a package is missing.
        RecordError: the target cannot be written.
    """
    target = Path(target)
    if target.suffix != ".onnx":
        raise ExportError(f"{target}: an ONNX file must end in .onnx")
    check_appendable(target)
    trained = load_trained(source)
    outputs = ["logits", *trained.attend(blank(trained)).maps]
    model = traced(trained, outputs)
    store_in_half(model)
    describe(model, trained)
    write_whole(target, model.SerializeToString(deterministic=True))
    return outputs


def blank(trained: Trained) -> Tensor:
    """Two black images, uint8: enough to get the names of a network's maps."""
    size = trained.network.image_size
    return torch.zeros(2, size, size, 3, dtype=torch.uint8)


def traced(trained: Trained, outputs: list[str]) -> Any:
    """The graph with constants folded; BatchNorm stays a separate node."""
    try:
        import onnx_ir
        from onnxscript import optimizer
    except ImportError as error:
        raise ExportError(
            f"the export to ONNX needs a missing package ({error.name}): "
            "pip install onnx onnxscript"
        ) from error
    size = trained.network.image_size
    images = torch.linspace(0, 1, 2 * 3 * size * size).view(2, 3, size, size)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own libraries
            program = torch.onnx.export(
                Graph(trained).eval(),
                (images,),
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=outputs,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # as no file was named
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    return onnx_ir.to_proto(program.model)


def store_in_half(model: Any) -> None:
    """Store tensors that float16 represents exactly as float16, with a Cast before use."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALLEST_HALF:
            continue
        half = values.astype("float16")
        if (half.astype("float32") == values).all():
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(
                helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def describe(model: Any, trained: Trained) -> None:
    """Replace the exporter's notes on this machine by the facts of the weights."""
    from onnx import helper

    del model.graph.value_info[:]
    for part in (model.graph, *model.graph.node, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}"
    facts = {k: v for k, v in trained.facts.items() if v is not None}
    said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    helper.set_model_props(model, said)
