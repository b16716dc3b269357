"""Pictures decoded by threads and by processes: the same rows in the same order, whatever the workers."""

import errno
import os
import signal
import sys
from collections import deque
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embedstore.encode import EncodeOptions, encode_source
from embedstore.encode.decoding import READ_AHEAD_BYTES, ThreadDecoders, in_order, open_decoders
from embedstore.encode.decoding_processes import ProcessDecoders
from embedstore.encode.plan import plan_source
from embedstore.encoders import load_image_encoder
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.sources import open_source
from embedstore.store import verify_store

SHARED = "/dev/shm"  # noqa: S108 - where Linux keeps shared memory


def tree(store):
    """Relative path -> bytes of every file."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_a_store_is_the_same_bytes_from_any_number_of_threads_and_processes(
    picture_folder, tiny_vision, tmp_path
):
    broken = sorted(picture_folder.rglob("*.png"))
    broken[7].write_bytes(b"")
    broken[60].write_bytes(b"not a picture")
    found = []
    for name, options in {
        "one": {"workers": 1},
        "many": {"workers": 5},
        "processes": {"workers": 2, "decode": "processes"},
    }.items():
        made = encode_source(
            str(picture_folder),
            tmp_path / name,
            image_encoders=[f"v=hf:{tiny_vision}"],
            options=EncodeOptions(batch_size=8, device="cpu", **options),
        )
        assert made.features[0].manifest.quarantined == 2
        assert verify_store(made.store).sound
        found.append(tree(made.store))
    assert found[0] == found[1] == found[2]


def test_no_more_rows_are_begun_than_asked_for():
    begun = []

    def begin(row):
        begun.append(row)
        return SimpleNamespace(result=lambda: row, cancel=lambda: None)

    rows = in_order(begin, range(20), 4, deque())
    assert next(rows) == 0
    assert begun == [0, 1, 2, 3]
    assert list(rows) == list(range(1, 20))


def test_decoders_stand_still_once_they_have_settled(planned):
    gate, opened = Event(), []

    def prepare(picture):
        assert gate.wait(60)
        opened.append(picture.size)
        return np.zeros((3, 1, 1), np.float32)

    encoder = SimpleNamespace(card=SimpleNamespace(processor=None), prepare=prepare)
    with ThreadDecoders(2) as decoders:
        rows = decoders.prepared(planned, encoder, range(12), thumbnails=0, ahead=4)
        gate.set()
        next(rows)
        gate.clear()
        decoders.settle(0)  # waits for nobody
        gate.set()
        decoders.settle(60)
        assert len(opened) == 4
        assert len(list(rows)) == 11


def test_reading_ahead_is_bounded_in_bytes():
    def encoder(edge):
        card = SimpleNamespace(processor=SimpleNamespace(size=(edge, edge)))
        return SimpleNamespace(card=card, prepare=None)

    with ThreadDecoders(2) as decoders:
        assert decoders.depth(encoder(224), 66) == 66
        assert decoders.depth(encoder(1024), 4096) == READ_AHEAD_BYTES // (3 * 4 * 1024 * 1024)
        assert decoders.depth(encoder(20_000), 66) == 4


@pytest.fixture
def planned(picture_folder):
    """The pictures of the folder in the order of a plan."""
    return plan_source(open_source(str(picture_folder)))


def test_an_encoder_without_a_preparation_is_refused_by_processes(planned):
    with ProcessDecoders(1) as decoders, pytest.raises(UsageError, match=r"cannot be sent[\s\S]*threads"):
        decoders.prepared(planned, SimpleNamespace(), range(4), thumbnails=0, ahead=4)


def test_a_worker_that_dies_is_said_and_leaves_no_shared_memory(planned, tiny_vision):
    encoder = load_image_encoder(f"hf:{tiny_vision}", device="cpu")
    with ProcessDecoders(1) as decoders:
        rows = decoders.prepared(planned, encoder, range(100), thumbnails=0, ahead=4)
        np.testing.assert_array_equal(
            next(rows).pixels, encoder.prepare(planned.picture(0)[1].open()), strict=True
        )
        memory = decoders._memory.name
        for process in list(decoders._pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EmbedstoreError, match="a process that decodes pictures died"):
            list(rows)
    assert not os.path.exists(f"{SHARED}/{memory}")  # noqa: PTH110


@pytest.mark.skipif(not os.path.isdir(SHARED), reason="looks where Linux keeps shared memory")  # noqa: PTH112
def test_shared_memory_is_had_before_anybody_writes_to_it(planned, tiny_vision, monkeypatch):
    encoder = load_image_encoder(f"hf:{tiny_vision}", device="cpu")
    with ProcessDecoders(1) as decoders:
        decoders.prepared(planned, encoder, range(4), thumbnails=0, ahead=4)
        memory = decoders._memory
        assert os.stat(f"{SHARED}/{memory.name}").st_blocks * 512 >= memory.size  # noqa: PTH116

        def full(handle, offset, size):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(UsageError, match=r"too little shared memory[\s\S]*No space[\s\S]*threads"):
            decoders.prepared(planned, encoder, range(4), thumbnails=0, ahead=4)
        assert decoders._memory is None


@pytest.mark.skipif(sys.platform != "linux", reason="only OpenMP limits one thread alone")
def test_a_decoding_thread_takes_no_cores_from_the_model():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadDecoders(2) as decoders:
            found = {decoders._pool.submit(torch.get_num_threads).result() for _ in range(4)}
        assert (found, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)


def test_unknown_workers_are_refused():
    with pytest.raises(UsageError, match="threads, processes"):
        EncodeOptions(decode="fibres")


def test_threads_are_the_default():
    with open_decoders(EncodeOptions(workers=3)) as decoders:
        assert isinstance(decoders, ThreadDecoders)
        assert decoders.count == 3
