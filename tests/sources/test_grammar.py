"""What a SOURCE may look like, and one clear error for everything else."""

from __future__ import annotations

import pytest
from PIL import Image

from embedstore.errors import SourceError, UnknownNameError, UsageError
from embedstore.sources import SOURCES, open_source
from embedstore.sources.folder import FolderSource
from embedstore.sources.grammar import split_spec
from embedstore.sources.table import TableSource


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pics" / "a.png")
    (tmp_path / "words.csv").write_text("caption\na dog\n")
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def test_kinds_are_detected_or_written(here):
    assert isinstance(open_source("pics"), FolderSource)
    assert isinstance(open_source("folder:pics"), FolderSource)
    assert isinstance(open_source(str(here / "pics")), FolderSource)
    assert isinstance(open_source("words.csv"), TableSource)
    assert isinstance(open_source("table:words.csv"), TableSource)
    assert split_spec("scenes:500?seed=0") == ("scenes", "500?seed=0")


def test_every_registered_kind_loads():
    assert {"folder", "table", "scenes", "webdataset", "hf", "laion"} <= set(SOURCES.names())
    for name in SOURCES.names():
        assert callable(SOURCES.load(name).from_spec)


def test_scenes_are_opened_by_their_spec():
    assert len(open_source("scenes:3?seed=0", columns={}, image_root=None)) == 3


@pytest.mark.parametrize("spec", ["nowhere", "folder:nowhere", "table:nowhere.csv"])
def test_a_path_that_is_not_there(here, spec):
    with pytest.raises(SourceError, match="there is no such") as caught:
        open_source(spec)
    assert "nowhere" in str(caught.value)


def test_an_unknown_kind(here):
    with pytest.raises(UnknownNameError, match="unknown source kind 'foldr'") as caught:
        open_source("foldr:pics")
    assert "did you mean 'folder'?" in str(caught.value)


def test_a_file_of_no_known_kind(here):
    with pytest.raises(SourceError, match="cannot tell what kind") as caught:
        open_source("notes.txt")
    assert ".jsonl" in str(caught.value)
    with pytest.raises(SourceError, match="not a table of a known format"):
        open_source("table:notes.txt")


def test_a_name_that_is_a_file_and_a_kind(here):
    (here / "folder:pics").mkdir()
    with pytest.raises(UsageError, match="name of a file as well as a source kind") as caught:
        open_source("folder:pics")
    assert "./folder:pics" in str(caught.value)


def test_a_colon_in_a_path_is_no_kind(here):
    (here / "run:1").mkdir()
    Image.new("RGB", (4, 4)).save(here / "run:1" / "a.png")
    assert len(open_source("run:1")) == 1


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("https://example.org/a.csv", "table"),
        ("s3://bucket/data", "folder"),
        ("s3://bucket/{000..012}.tar", "webdataset"),
        ("gs://bucket/x.tar.gz?split=train", "webdataset"),
        ("memory://b/t.parquet", "table"),
    ],
)
def test_the_kind_of_a_url_is_told_by_its_spelling(spec, kind):
    assert split_spec(spec) == (kind, spec)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("s-{0..1}.tar", "webdataset"),
        ("s-*.tar", "webdataset"),
        ("s-0.tar?split=a", "webdataset"),
        ("s-0.tgz", "webdataset"),
        ("shards", "webdataset"),
        ("saved", "hf"),
    ],
)
def test_data_sets_of_files_are_detected(here, spec, kind):
    (here / "shards").mkdir()
    (here / "saved").mkdir()
    (here / "saved" / "dataset_dict.json").write_text("{}")
    for name in ("s-0.tar", "s-0.tgz", "shards/0.tar"):
        (here / name).touch()
    assert split_spec(spec) == (kind, spec)


@pytest.mark.parametrize("spec", ["ftp://host/a.csv", "file:///tmp/a.csv", "s3://me:secret@bucket/a.csv"])
def test_urls_that_are_no_place_of_a_source(spec):
    with pytest.raises(UsageError, match="source"):
        open_source(spec)


def test_no_source():
    with pytest.raises(UsageError, match="no source is given"):
        open_source("")


def test_options_must_mean_something_to_the_kind(here):
    with pytest.raises(
        UsageError, match="option 'image_root' has no meaning for the source kind 'folder'"
    ) as caught:
        open_source("pics", image_root=here)
    assert "columns, language" in str(caught.value)
    assert open_source("words.csv", language="de")[0].captions[0].language == "de"
    assert (
        open_source("words.csv", image_root=None, columns={}, language=None)[0].captions[0].language == "en"
    )


def test_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert len(open_source("folder:~/pics")) == 1
    assert len(open_source("~/words.csv")) == 1
