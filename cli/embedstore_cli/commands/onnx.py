"""`embedstore onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def onnx(
    head: opt.Head,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.", show_default=False)],
    patches: Annotated[
        bool, typer.Option("--patches", help="Also a graph of single patches, for segmentation.")
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of the operators, 18 to 23.")] = 20,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files in DIR.")] = False,
    json: opt.Json = False,
) -> None:
    """Export a head as ONNX graphs, image.onnx and text.onnx, each checked against torch in onnxruntime.

    The frozen encoders are not part of them.
    """
    from embedstore.model.onnx import export_onnx

    graphs = export_onnx(head, out, opset=opset, patches=patches, overwrite=overwrite)
    if json:
        render.print_json([graph.to_dict() for graph in graphs])
        return
    for graph in graphs:
        inputs = ", ".join(f"{name} ({_shape(shape)})" for name, shape in graph.inputs.items())
        render.say(f"{out / graph.path}: {inputs} to ({_shape(graph.output)}), {render.size(graph.nbytes)}")
        render.say(f"  opset {graph.opset}, largest difference from torch {graph.difference:.1e}")


def _shape(shape: tuple[str | int, ...]) -> str:
    return ", ".join(map(str, shape))
