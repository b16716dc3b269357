"""A reader of stores in NumPy and json, written from docs/format.md alone by one who knows nothing else."""

import json
from pathlib import Path

import numpy as np


def crc32c(data):
    """RFC 3720: the reflected Castagnoli polynomial, byte by byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


TABLE = np.arange(256)
for _ in range(8):
    TABLE = np.where(TABLE & 1, TABLE >> 1 ^ 0x82F63B78, TABLE >> 1)
TABLE = TABLE.tolist()


def read_shard(path, place, dtype, chunk, shard):
    """The places of one shard file `(shard, *place)`, and which of them are there."""
    data, count = path.read_bytes(), shard // chunk
    size = chunk * int(np.prod(place, dtype=int)) * dtype.itemsize
    index = data[-16 * count - 4 : -4]
    assert crc32c(index) == data[-4:], f"{path}: the index is damaged"
    values, there = np.zeros((shard, *place), dtype), np.zeros(shard, bool)
    for k, (at, nbytes) in enumerate(np.frombuffer(index, "<u8").reshape(count, 2).tolist()):
        if at != 2**64 - 1:
            assert (nbytes, True) == (size + 4, at + nbytes <= len(data)), f"{path}: chunk {k} is damaged"
            part = data[at : at + size]
            assert crc32c(part) == data[at + size : at + nbytes], f"{path}: chunk {k} is damaged"
            values[k * chunk : (k + 1) * chunk] = np.frombuffer(part, dtype).reshape(chunk, *place)
            there[k * chunk : (k + 1) * chunk] = True
    return values, there


def read_feature(store, name):
    """Every array of a complete feature; tokens of texts as a list with one array a text."""
    folder, arrays = Path(store) / "features" / name, {}
    assert (folder / "manifest.json").is_file(), "the feature is not complete"
    header = json.loads((folder / "header.json").read_text())
    assert header["format_version"] == 1
    for spec in header["arrays"]:
        key, rows, place = spec["name"], spec["shape"][0], spec["shape"][1:]
        files = [folder.joinpath(key, "c", str(u), *["0"] * len(place)) for u in range(header["units"])]
        dtype = np.dtype(spec["dtype"]).newbyteorder("<")
        shards = [read_shard(path, place, dtype, spec["chunk"], spec["shard"]) for path in files]
        arrays[key], there = (np.concatenate(part)[:rows] for part in zip(*shards, strict=True))
        assert there.all() or (header["table"], key) == ("texts", "tokens"), "a chunk is missing"
    if header["table"] == "texts":
        packed, lengths, s = arrays["tokens"], arrays["lengths"], header["shard_rows"]
        firsts = [r // s * s for r in range(header["rows"])]
        starts = [f * header["max_tokens"] + int(lengths[f:r].sum()) for r, f in enumerate(firsts)]
        arrays["tokens"] = [packed[a : a + n] for a, n in zip(starts, lengths.tolist(), strict=True)]
    return arrays
