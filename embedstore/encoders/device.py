"""Where a frozen model runs, in which precision, and beside how many threads."""

from __future__ import annotations

import contextlib
import ctypes
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

ComputeType: TypeAlias = Literal["float32", "bfloat16", "float16"]
DeviceKind: TypeAlias = Literal["cpu", "cuda", "mps"]

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there; `UsageError` for one that is not."""
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _available(kind)))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("unknown device", found=name, allowed="auto, cpu, cuda, cuda:N, mps") from None
    if not _available(device.type, device.index or 0):
        raise UsageError("this machine has no such device", found=name, todo="use --device auto")
    return device


def _available(kind: str, index: int = 0) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


def device_kind(device: torch.device) -> DeviceKind:
    """The kind of a device that `pick_device` gave, as it stands in a card."""
    kinds: dict[str, DeviceKind] = {"cpu": "cpu", "cuda": "cuda", "mps": "mps"}
    return kinds[device.type]


def pick_dtype(dtype: str | None, device: torch.device) -> ComputeType:
    """The precision of the forward pass: float16 (autocast) on cuda and float32 elsewhere unless asked."""
    if dtype is None:
        return "float16" if device.type == "cuda" else "float32"
    allowed: dict[str, ComputeType] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
    if dtype not in allowed:
        raise UsageError("unknown dtype of computation", found=dtype, allowed=", ".join(allowed))
    return allowed[dtype]


_EXACTLY: ContextVar[bool] = ContextVar("_EXACTLY", default=False)


@contextlib.contextmanager
def frozen_forward(device: torch.device, dtype: ComputeType) -> Iterator[None]:
    """Inference mode, with autocast where the precision is a half one; the weights stay float32.

    Also inside an autocast of the caller's: cards say in which precision an encoder runs.
    """
    half = dtype != "float32" and not _EXACTLY.get()
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=_DTYPES[dtype] if half else None, enabled=half),
    ):
        yield


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Every `frozen_forward` of this thread in whole float32: neither autocast nor TensorFloat-32."""
    token = _EXACTLY.set(True)
    try:
        with _without_tf32():
            yield
    finally:
        _EXACTLY.reset(token)


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    cudnn: Any = torch.backends.cudnn
    try:
        matmul, convolution = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        # torch refuses these to who has set the newer switches: then those are to be used.
        places = (torch.backends.cuda.matmul, cudnn.conv)
        before = [place.fp32_precision for place in places]
        for place in places:
            place.fp32_precision = "ieee"
        try:
            yield
        finally:
            for place, precision in zip(places, before, strict=True):
                place.fp32_precision = precision
        return
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolution


def unused_gpu(device: str) -> str | None:
    """What to tell a user whose choice of `device` leaves a GPU idle; none where it leaves none."""
    if pick_device(device).type != "cpu":
        return None
    if _available("cuda"):
        name = torch.cuda.get_device_name(0)
        return f"running on the CPU although a GPU is here ({name}); --device cuda uses it"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "running on the CPU: an NVIDIA GPU is here, but this torch cannot use it; install a CUDA build"
    return None


def one_openmp_thread() -> None:
    """Keep torch from sharing the work of this thread with others.

    Each thread that calls torch gets a team of its own as large as the machine, whose members wait for work
    by spinning and take the cores from the model. Only OpenMP has a limit for one thread alone:
    `torch.set_num_threads` sets that of the process. Where torch uses something else, nothing is done.
    """
    torch.get_num_threads()  # decides how many this thread may use, once; later ones ask OpenMP
    # Its dependencies are found through this library, so the OpenMP is the one that torch uses.
    library = Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(str(library)).omp_set_num_threads(1)
