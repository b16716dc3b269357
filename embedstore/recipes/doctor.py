"""What this machine has for encoding and reading: devices, versions, extras, rates of memory and disk."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.recipes.rates import DiskRates, measure_disk, measure_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

_OURS = "embedstore"
_NOT_FOR_USERS = {"dev"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong here, and what puts it right."""

    problem: str
    todo: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it; bytes."""

    device: str
    name: str
    memory: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An optional group of libraries: which are missing, and the line that installs them."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything that `embedstore doctor` says; bytes and bytes a second."""

    platform: str
    processor: str
    cores: int
    memory: int | None
    python: str
    versions: dict[str, str]
    gpus: tuple[Gpu, ...]
    torch_build: str
    faiss: str
    faiss_gpus: int
    jpeg: str
    extras: tuple[Extra, ...]
    memory_rate: float
    disk: DiskRates
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready report."""
        return asdict(self)


def examine_machine(folder: str | Path = ".") -> Machine:
    """Look at this machine and measure memory and the disk of `folder` for a second or two.

    Raises `StoreError` where the folder cannot be written.
    """
    from embedstore.encode.options import usable_cores

    problems: list[Problem] = []
    versions = _versions(problems)
    gpus, build = _gpus(problems)
    faiss, faiss_gpus = _faiss(problems, gpus=len(gpus))
    disk = measure_disk(Path(folder))
    if not disk.links:
        problems.append(
            Problem(
                problem=f"{disk.folder}: this file system has no hard links; a kill can then cut a record "
                "short, and its unit is made again",
                todo="keep stores on a file system with hard links where you can choose",
            )
        )
    return Machine(
        platform=platform.platform(),
        processor=_processor(),
        cores=usable_cores(),
        memory=_memory(),
        python=platform.python_version(),
        versions=versions,
        gpus=gpus,
        torch_build=build,
        faiss=faiss,
        faiss_gpus=faiss_gpus,
        jpeg=_jpeg(),
        extras=tuple(_extras()),
        memory_rate=measure_memory(),
        disk=disk,
        problems=tuple(problems),
    )


def _requirements() -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        return [Requirement(line) for line in metadata.requires(_OURS) or ()]
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions(problems: list[Problem]) -> dict[str, str]:
    """Versions of this library and of all that it needs; what is missing or too old is a problem."""
    found = {_OURS: _version(_OURS) or "not installed"}
    for needed in _requirements():
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version = _version(needed.name)
        found[needed.name] = version or "missing"
        line = f"pip install '{needed.name}{needed.specifier}'"
        if version is None:
            problems.append(Problem(problem=f"{needed.name} is missing", todo=line))
        elif not needed.specifier.contains(version, prereleases=True):
            problems.append(Problem(problem=f"{needed.name} {version} is not {needed.specifier}", todo=line))
    return found


def _extras() -> Iterator[Extra]:
    """The extras of the installed package, those for its own developers left out."""
    needed = _requirements()
    try:
        names = metadata.metadata(_OURS).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        names = []
    for name in sorted(set(names) - _NOT_FOR_USERS):
        of_extra = [
            r
            for r in needed
            if r.marker is not None
            and r.marker.evaluate({"extra": name})
            and not r.marker.evaluate({"extra": ""})
        ]
        missing = tuple(
            r.name
            for r in of_extra
            if (version := _version(r.name)) is None or not r.specifier.contains(version, prereleases=True)
        )
        yield Extra(name=name, missing=missing, install=f"pip install '{_OURS}[{name}]'")


def _gpus(problems: list[Problem]) -> tuple[tuple[Gpu, ...], str]:
    import torch

    from embedstore.encoders.device import unused_gpu

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    found = []
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(k)
        found.append(Gpu(device=f"cuda:{k}", name=torch.cuda.get_device_name(k), memory=whole, free=free))
    if torch.backends.mps.is_available():
        found.append(Gpu(device="mps", name="Apple GPU", memory=0, free=0))
    idle = unused_gpu("auto")
    if idle:
        problems.append(Problem(problem=idle, todo="see https://pytorch.org/get-started/locally"))
    return tuple(found), build


def _faiss(problems: list[Problem], *, gpus: int) -> tuple[str, int]:
    """The flavour of FAISS and the GPUs that it sees; two flavours in one environment break each other."""
    flavours = [name for name in ("faiss-gpu", "faiss-cpu") if _version(name)]
    if len(flavours) > 1:
        problems.append(
            Problem(
                problem="faiss-gpu and faiss-cpu are both installed, in one folder",
                todo="pip uninstall -y faiss-gpu faiss-cpu && pip install faiss-gpu",
            )
        )
    try:
        import faiss
    except ImportError as bad:
        problems.append(Problem(problem=f"FAISS cannot be loaded: {bad}", todo="pip install faiss-cpu"))
        return "missing", 0
    seen = int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
    kind = "GPU" if hasattr(faiss, "StandardGpuResources") else "CPU"
    if gpus and not seen and sys.platform == "linux":
        problems.append(
            Problem(
                problem=f"FAISS ({kind} flavour) sees no GPU, torch sees {gpus}", todo="pip install faiss-gpu"
            )
        )
    return f"{kind} flavour {faiss.__version__} ({', '.join(flavours) or 'of unknown package'})", seen


def _jpeg() -> str:
    """Which library decodes JPEG; turbo is several times as fast."""
    from PIL import features

    turbo = features.check_feature("libjpeg_turbo")
    version = features.version_feature("libjpeg_turbo") if turbo else features.version_codec("jpg")
    return f"{'libjpeg-turbo' if turbo else 'libjpeg'} {version}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory() -> int | None:
    """Bytes of memory, or of what this container may take of it; none where the system does not tell."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    bound = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(whole, int(bound)) if bound.isdigit() else whole
