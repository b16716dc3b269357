"""What the benchmark of encoding works on."""

import json
import sys
from pathlib import Path

from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def modules(monkeypatch):
    """The benchmark's own files."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import encode_data
    import encode_memory

    return encode_data, encode_memory


def test_pictures_are_painted_where_there_are_none_and_linked_as_often_as_asked(monkeypatch, tmp_path):
    data, _ = modules(monkeypatch)
    monkeypatch.setattr(data, "FLICKR", tmp_path / "nowhere")
    files, kind = data.pictures(tmp_path / "painted")
    assert (len(files), kind) == (256, "painted pictures, 340 x 256")
    assert data.captions() == []
    folder = data.linked(tmp_path / "linked", files[:3], 7)
    assert [p.read_bytes() for p in sorted(folder.iterdir())][3] == files[0].read_bytes()
    with Image.open(next(data.enlarged(tmp_path / "large", files[:1], 384).iterdir())) as large:
        assert min(large.size) == 384
    table = data.with_captions(tmp_path / "table.jsonl", folder, ["one", "two"])
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == 35
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def test_the_peak_is_of_this_process(monkeypatch):
    _, memory = modules(monkeypatch)
    if sys.platform == "linux":
        assert 10 < memory.peak() < 100_000
