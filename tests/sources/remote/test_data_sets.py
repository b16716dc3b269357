"""Data sets and pools of captions behind URLs."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedstore.errors import SourceError
from embedstore.sources import open_source
from embedstore.testing.sources import SourceContract

datasets = pytest.importorskip("datasets")


def held(number):
    out = io.BytesIO()
    Image.new("RGB", (9, 5 + number), f"#{number:02x}8040").save(out, "PNG")
    return {"bytes": out.getvalue(), "path": f"{number}.png"}


@pytest.fixture
def rows():
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    columns = {"image": [held(i) for i in range(9)], "text": [f"t{i}" for i in range(9)]}
    return datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features)})


def facts(source):
    return [
        (s.id, s.captions, s.split, s.picture and s.picture.open().tobytes())
        for s in map(source.__getitem__, range(len(source)))
    ]


@pytest.mark.parametrize(("kind", "layout"), [("memory", "saved"), ("memory", "parquet"), ("s3", "saved")])
def test_a_url_gives_what_a_path_gives(rows, tmp_path, kind, layout, request):
    if layout == "saved":
        rows.save_to_disk(tmp_path / "d", num_shards={"train": 2})
    else:
        (tmp_path / "d").mkdir()
        rows["train"].to_parquet(tmp_path / "d" / "train-00000-of-00001.parquet", batch_size=4)
    url = request.getfixturevalue(kind).copy(tmp_path / "d")
    there = open_source(f"hf:{url}")
    assert facts(there) == facts(open_source(f"hf:{tmp_path / 'd'}"))
    assert there.shuffled == (layout == "parquet")


def test_captions_behind_a_url(memory, tmp_path):
    for k in range(2):
        pq.write_table(pa.table({"TEXT": [f"{k} {i}" for i in range(5)]}), tmp_path / f"p{k}.parquet")
    url = memory.copy(tmp_path)
    assert facts(open_source(f"laion:{url}/p{{0..1}}.parquet")) == facts(open_source(f"laion:{tmp_path}"))
    assert len(open_source(f"laion:{url}/p*.parquet?split=train")) == 10


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, rows, tmp_path, memory):
        rows.save_to_disk(tmp_path / "d")
        return open_source(f"hf:{memory.copy(tmp_path / 'd')}")


def test_what_is_not_there(memory):
    with pytest.raises(SourceError, match="no such data set"):
        open_source(f"hf:{memory.url}")
    with pytest.raises(SourceError, match="no such Parquet file"):
        open_source(f"laion:{memory.url}/x.parquet")
