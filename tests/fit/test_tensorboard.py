"""Events of a fit, read back by their own format; the install line where the package is absent."""

from __future__ import annotations

import struct
import sys

import pytest

from embedstore.errors import MissingExtraError
from embedstore.fit import fit_config, fit_head, fit_sweep
from embedstore.fit.files import FitLog, read_log
from embedstore.fit.grid import Member
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("events") / "store", images=60)


def config():
    return fit_config(
        image="vision", text="words", split="train", val_split="val", width=8, epochs=2, batch_size=20
    )


def events(file):
    """A record is length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, at = file.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += size + 16


def scalars(folder):
    """(tag, step) to value of every event."""
    return {
        (value.tag, event.step): value.simple_value
        for file in sorted(folder.glob("events.out.tfevents.*"))
        for event in events(file)
        for value in event.summary.value
    }


def session_starts(file):
    """Steps from which a reader forgets what was written before."""
    return [event.step for event in events(file) if event.HasField("session_log")]


def test_events_tell_what_the_log_tells(store, tmp_path):
    fit_head(store, config(), tmp_path / "h", device="cpu", tensorboard=True)
    found = scalars(tmp_path / "h")
    lines = read_log(tmp_path / "h")
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert (
        {s for tag, s in found if tag == "step/loss"} == {line["step"] for line in steps} == set(range(1, 7))
    )
    assert [line["step"] for line in epochs] == [3, 6]
    for line in steps:
        for name in ("loss", "temperature", "lr"):
            assert found[f"step/{name}", line["step"]] == pytest.approx(line[name], rel=1e-5)
    for line in epochs:
        for way, value in line["recall@1"].items():
            assert found[f"validation/recall_at_1/{way}", line["step"]] == pytest.approx(value, rel=1e-5)
    fit_head(store, config(), tmp_path / "h", device="cpu", tensorboard=True, overwrite=True)
    assert len(list((tmp_path / "h").glob("events.*"))) == 1


def test_a_fit_that_goes_on_hides_what_was_written_past_its_checkpoint(store, tmp_path):
    whole = fit_head(store, config(), tmp_path / "whole", device="cpu", tensorboard=True)

    def stop(at):
        if at.step == 4:
            raise KeyboardInterrupt

    out = tmp_path / "h"
    with pytest.raises(KeyboardInterrupt):
        fit_head(
            store,
            config(),
            out,
            device="cpu",
            tensorboard=True,
            checkpoint_steps=2,
            on_progress=stop,
        )
    assert ("step/loss", 4) in scalars(out)
    fit_head(store, config(), out, device="cpu", tensorboard=True)
    assert len(list(out.glob("events.*"))) == 2
    [purged] = (step for file in out.glob("events.*.2") for step in session_starts(file))
    assert purged == 3
    figures = [
        {at: v for at, v in scalars(folder).items() if "second" not in at[0]} for folder in (out, whole.out)
    ]
    assert figures[0] == figures[1]


def test_events_of_another_head_do_not_stay(store, tmp_path):
    fit_head(store, config(), tmp_path / "h", device="cpu", tensorboard=True)
    fit_head(store, config(), tmp_path / "h", device="cpu", overwrite=True)
    assert not list((tmp_path / "h").glob("events.*"))


def test_members_of_a_sweep_have_events_of_their_own(store, tmp_path):
    fit_sweep(store, [Member(name="a", config=config(), varied={})], tmp_path, device="cpu", tensorboard=True)
    assert ("epoch/loss", 6) in scalars(tmp_path / "a")


def test_its_absence_is_told_before_any_work(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[tensorboard\]'"):
        fit_head(store, config(), tmp_path / "h", device="cpu", tensorboard=True)
    assert not (tmp_path / "h").exists()
    with FitLog(tmp_path) as log:
        log.write("step", loss=1.0)
