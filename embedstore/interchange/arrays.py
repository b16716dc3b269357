"""Arrays in `.npy`, `.npz`, `.pt`, `.safetensors` and `.h5` files: opened without reading them whole.

Pickled objects are never loaded: `.npy` of objects is refused, `.pt` is read by torch's weights-only loader.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from embedstore.errors import SourceError
from embedstore.interchange.extras import need
from embedstore.interchange.values import BLOCK_BYTES, Values, check_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from embedstore.shapes import AnyArray

_SAFE_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_OBJECTS = "save the numbers as an array of floats, and the ids beside it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayFile:
    """The named arrays of one file. `small(name)` reads one whole, for ids and lengths; may be a list."""

    name: str
    keys: tuple[str, ...]
    values: Callable[[str], Values]
    small: Callable[[str], Any]

    def key(self, wanted: str | None, *, not_these: frozenset[str]) -> str:
        """The array that is meant: the one named, or the only one there is."""
        rest = [k for k in self.keys if k not in not_these]
        if wanted is None and len(rest) == 1:
            return rest[0]
        if wanted in self.keys:
            return str(wanted)
        raise SourceError(
            f"no array {wanted!r}" if wanted else "several arrays, and none was chosen",
            where=self.name,
            allowed=", ".join(map(repr, self.keys)) or "no arrays in this file",
            todo=f"choose one: --key {rest[0] if rest else 'NAME'}",
        )


def open_arrays(path: Path, kind: str) -> ArrayFile:
    """Open a file of kind npy, npz, pt, safetensors or h5; `SourceError` with the reason otherwise."""
    if not path.is_file():
        raise SourceError("there is no such file", found=path)
    try:
        return _OPENERS[kind](path)
    except (OSError, EOFError, zipfile.BadZipFile) as bad:
        raise SourceError(f"cannot be read as {kind}: {bad}", where=path.name) from None


def _npy(path: Path) -> ArrayFile:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as bad:
        raise _bad_numpy(bad, path.name) from None
    _refuse_fortran(array.ndim > 1 and not array.flags.c_contiguous, path.name)

    def values(_key: str) -> Values:
        check_layout(array.shape, array.dtype.name, path.name)
        return Values(
            shape=array.shape, dtype=array.dtype.name, cut=lambda start, stop: np.asarray(array[start:stop])
        )

    return ArrayFile(name=path.name, keys=("array",), values=values, small=lambda _key: np.asarray(array))


def _bad_numpy(bad: ValueError, where: str) -> SourceError:
    if "pickle" in str(bad) or "Object arrays" in str(bad):
        return SourceError("the array holds Python objects, which are not read", where=where, todo=_OBJECTS)
    return SourceError(f"not an array that can be read: {bad}", where=where)


def _refuse_fortran(fortran: object, where: str) -> None:
    if fortran:
        raise SourceError(
            "the array is in Fortran order: one row would be read from all over the file",
            where=where,
            todo="save it again with np.save(path, np.ascontiguousarray(array))",
        )


def _npz(path: Path) -> ArrayFile:
    """Members are read as a stream, so that a compressed one is never whole in memory."""
    with zipfile.ZipFile(path) as archive:
        keys = tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))

    def member(key: str) -> tuple[zipfile.ZipFile, Any]:
        archive = zipfile.ZipFile(path)
        return archive, archive.open(f"{key}.npy")

    def values(key: str) -> Values:
        archive, stream = member(key)
        where = f"{path.name}, {key}"
        with archive, stream:
            shape, dtype = _npy_header(stream, where)
        check_layout(shape, dtype.name, where)
        rows = _Stream(lambda: member(key), where)
        return Values(shape=shape, dtype=dtype.name, cut=rows.cut, near=False, close=rows.close)

    def small(key: str) -> AnyArray:
        try:
            with np.load(path, allow_pickle=False) as archive:
                found: AnyArray = archive[key]
                return found
        except ValueError as bad:
            raise _bad_numpy(bad, f"{path.name}, {key}") from None

    return ArrayFile(name=path.name, keys=keys, values=values, small=small)


def _npy_header(stream: BinaryIO, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = readers[version](stream)
    except (ValueError, KeyError) as bad:
        raise SourceError(f"not an array that can be read: {bad}", where=where) from None
    if dtype.hasobject:
        raise SourceError("the array holds Python objects, which are not read", where=where, todo=_OBJECTS)
    _refuse_fortran(fortran and len(shape) > 1, where)
    return shape, dtype


class _Stream:
    """A member of an archive, read forwards; going back opens it again."""

    def __init__(self, member: Callable[[], tuple[zipfile.ZipFile, Any]], where: str) -> None:
        self._member, self._where, self._at = member, where, 0
        self._open: tuple[zipfile.ZipFile, Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def cut(self, start: int, stop: int) -> AnyArray:
        if self._open is None or start < self._at:
            self.close()
            self._open, self._at = self._member(), 0
            self._shape, self._dtype = _npy_header(self._open[1], self._where)
        while self._at < start:
            self._read(min(start, self._at + max(1, BLOCK_BYTES // self._row_bytes)))
        return self._read(stop)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open[0].close()
            self._open = None

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape[1:], dtype=np.int64)) * self._dtype.itemsize

    def _read(self, stop: int) -> AnyArray:
        if self._open is None:
            raise SourceError("the archive is closed", where=self._where)
        wanted = (stop - self._at) * self._row_bytes
        data = self._open[1].read(wanted)
        if len(data) != wanted:
            raise SourceError("the array is cut short", where=self._where, found=f"row {stop} is missing")
        self._at = stop
        return np.frombuffer(data, self._dtype).reshape(-1, *self._shape[1:])


def _pt(path: Path) -> ArrayFile:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise SourceError(
            "the file holds more than tensors, and nothing else is loaded", where=path.name, todo=_OBJECTS
        ) from None
    except (RuntimeError, ValueError) as bad:
        raise SourceError(
            f"not a file of tensors that can be read: {str(bad).splitlines()[0]}",
            where=path.name,
            todo="save it again with a current torch.save",
        ) from None
    tensors: Mapping[Any, Any] = found if isinstance(found, dict) else {"tensor": found}
    keys = tuple(k for k, v in tensors.items() if isinstance(k, str) and isinstance(v, torch.Tensor | list))

    def values(key: str) -> Values:
        tensor = tensors[key]
        if not isinstance(tensor, torch.Tensor):
            raise SourceError("not a tensor", where=f"{path.name}, {key}", found=type(tensor).__name__)
        dtype = str(tensor.dtype).removeprefix("torch.")
        check_layout(tensor.shape, dtype, f"{path.name}, {key}")

        def cut(start: int, stop: int) -> AnyArray:
            part = tensor[start:stop].detach()
            return (part.float() if part.dtype == torch.bfloat16 else part).numpy()

        return Values(shape=tuple(tensor.shape), dtype=dtype, cut=cut)

    return ArrayFile(name=path.name, keys=keys, values=values, small=lambda key: tensors[key])


def _safetensors(path: Path) -> ArrayFile:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as bad:
        raise SourceError(f"not a safetensors file that can be read: {bad}", where=path.name) from None

    def values(key: str) -> Values:
        view: Any = file.get_slice(key)  # type: ignore[no-untyped-call]  # a compiled module
        dtype = _SAFE_DTYPES.get(view.get_dtype(), view.get_dtype())
        check_layout(view.get_shape(), dtype, f"{path.name}, {key}")

        def cut(start: int, stop: int) -> AnyArray:
            part = view[start:stop]
            found: AnyArray = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
            return found

        return Values(shape=tuple(view.get_shape()), dtype=dtype, cut=cut)

    keys: list[str] = file.keys()  # type: ignore[no-untyped-call]  # a compiled module
    return ArrayFile(name=path.name, keys=tuple(keys), values=values, small=file.get_tensor)


def _h5(path: Path) -> ArrayFile:
    h5py = need("h5py")
    file = h5py.File(path, "r")
    keys: list[str] = []
    # Links into other files are not followed, so nothing outside this file is read.
    file.visititems(lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None)

    def values(key: str) -> Values:
        data = file[key]
        if data.external or data.is_virtual:
            raise SourceError(
                "the numbers lie in another file, which is not followed", where=f"{path.name}, {key}"
            )
        check_layout(data.shape, data.dtype.name, f"{path.name}, {key}")
        return Values(
            shape=data.shape,
            dtype=data.dtype.name,
            cut=lambda start, stop: data[start:stop],
            near=data.chunks is None,
            close=file.close,
        )

    def small(key: str) -> Any:
        data = file[key]
        return data.asstr()[:] if h5py.check_string_dtype(data.dtype) else data[:]

    return ArrayFile(name=path.name, keys=tuple(keys), values=values, small=small)


_OPENERS: dict[str, Callable[[Path], ArrayFile]] = {
    "npy": _npy,
    "npz": _npz,
    "pt": _pt,
    "safetensors": _safetensors,
    "h5": _h5,
}
