"""Units written in the background: the same files, and no error lost."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embedstore.errors import StorageValueError
from embedstore.store import FeatureWriter, Storing, open_store
from embedstore.store import storing as storing_module
from embedstore.testing.stores import write_random_store


@pytest.fixture
def writer(tmp_path):
    """A writer of a second feature of four units beside an existing one."""
    store = write_random_store(tmp_path / "s", images=60, shard_rows=16)
    header = store.header("vision").model_copy(update={"name": "copy"})
    return FeatureWriter.open(store.path, header)


def unit(writer, number):
    feature, rows = open_store(writer.store)["vision"], writer.header.unit_rows(number)
    names = [a.name for a in writer.header.arrays if a.name != "status"]
    return {name: feature.read(name, rows.start, rows.stop) for name in names}


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_what_is_put_is_written(writer, at_once):
    with Storing(writer, at_once=at_once) as storing:
        for number in range(4):
            storing.put(number, unit(writer, number))
    manifest = writer.finish()
    old = open_store(writer.store)["vision"].manifest
    assert (manifest.nbytes, manifest.tokens) == (old.nbytes, old.tokens)
    for name in open_store(writer.store)["vision"].arrays:
        new, before = (open_store(writer.store)[f].read(name, 0, 60) for f in ("copy", "vision"))
        np.testing.assert_array_equal(new, before)


@pytest.mark.parametrize(("at_once", "small", "wanted"), [(1, 64 << 20, 1), (2, 0, 2), (2, 64 << 20, 4)])
def test_no_more_than_so_many_are_under_way(writer, monkeypatch, at_once, small, wanted):
    running, most, lock, real = [0], [0], threading.Lock(), writer.write_unit
    all_there = threading.Barrier(wanted)

    def counted(*arguments, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        all_there.wait(timeout=60)
        try:
            return real(*arguments, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(storing_module, "_SMALL_BYTES", small)
    monkeypatch.setattr(writer, "write_unit", counted)
    with Storing(writer, at_once=at_once) as storing:
        for number in range(4):
            storing.put(number, unit(writer, number))
    assert most == [wanted]


@pytest.mark.parametrize("bad", [0, 3])
def test_what_a_write_raises_comes_out(writer, bad):
    def all_units():
        with Storing(writer) as storing:
            for number in range(4):
                arrays = unit(writer, number)
                storing.put(number, {} if number == bad else arrays)

    with pytest.raises(StorageValueError, match="wrong arrays"):
        all_units()
    assert bad in writer.missing_units()


def test_an_error_of_the_maker_is_not_hidden(writer):
    with pytest.raises(ZeroDivisionError), Storing(writer) as storing:  # noqa: PT012 - the block is the test
        storing.put(0, {})
        raise ZeroDivisionError
