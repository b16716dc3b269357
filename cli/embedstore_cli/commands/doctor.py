"""`embedstore doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.recipes.doctor import Machine


def doctor(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Whose disk is measured: where stores are to lie."),
    ] = Path(),
    json: opt.Json = False,
) -> None:
    """Tell what this machine has: GPUs, FAISS, versions, extras, and how fast memory and disk are.

    Exit code 1 where something is wrong, with the line that puts it right.
    """
    from embedstore.recipes.doctor import examine_machine

    found = examine_machine(folder)
    render.print_json(found.to_dict()) if json else _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: Machine) -> None:
    memory = "" if found.memory is None else f", {render.size(found.memory)} of memory"
    render.heading(f"{found.processor}, {found.cores} cores{memory}")
    render.say(f"{found.platform}, Python {found.python}")
    render.say()
    for gpu in found.gpus:
        room = f", {render.size(gpu.free)} of {render.size(gpu.memory)} free" if gpu.memory else ""
        render.say(f"GPU {gpu.device}: {gpu.name}{room}")
    if not found.gpus:
        render.say("GPU: none that torch can use")
    render.say(f"torch: built for {found.torch_build}")
    render.say(f"FAISS: {found.faiss}, sees {found.faiss_gpus} GPUs")
    render.say(f"JPEG: {found.jpeg}")
    render.say()
    disk = found.disk
    cold = "" if disk.read_cold is None else f", read {_rate(disk.read_cold)} from the disk"
    render.say(f"memory: {_rate(found.memory_rate)} copied by one thread")
    render.say(
        f"disk of {disk.folder}: write {_rate(disk.write)}{cold}, read {_rate(disk.read_warm)} from memory, "
        f"{1e3 * disk.flush:.1f} ms to make a small file safe; {render.size(disk.free)} free"
    )
    render.say()
    render.table("versions", ("package", "version"), list(found.versions.items()))
    render.say()
    for extra in found.extras:
        state = f"missing: {', '.join(extra.missing)}; {extra.install}" if extra.missing else "installed"
        render.say(f"extra {extra.name}: {state}")
    for problem in found.problems:
        render.warn(f"{problem.problem}\n  what to do: {problem.todo}")
    if not found.problems:
        render.say("nothing is wrong here")


def _rate(nbytes: float) -> str:
    return f"{render.size(nbytes)}/s"
