"""The coordinator against workers that die, fail and lie, over a transport without processes."""

from collections import Counter, deque

import numpy as np
import pytest

from embedstore.documents import QuarantinedRow
from embedstore.encode import EncodeOptions, Part
from embedstore.encode.engines import messages as say
from embedstore.encode.engines.crew import Crew, label_of
from embedstore.encode.session import EncodeRequest
from embedstore.errors import DiskFullError, EngineError, TooManyFailedError
from embedstore.store import FeatureWriter, create_store, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables

ROWS, SHARD = 20, 4


class Scripted:
    """Workers that do at once what a script says: `script(worker, lease)` gives the words for a lease."""

    def __init__(self, store, script=None, workers=2):
        self.names = ("cpu",) * workers
        self.store, self.script = store, script or self.good
        self.starts, self.ended, self.said = Counter(), False, deque()
        self.plan = random_plan(images=ROWS, captions=0)
        self.header = plan_feature(
            name="vision",
            plan=self.plan,
            card=random_card("image", width=4, tokens=4),
            policy="float16",
            shard_rows=SHARD,
        )

    def start(self, worker):
        self.starts[worker] += 1
        self.tell(worker, say.Ready(process=worker, host="here"))

    def tell(self, worker, *messages):
        self.said += [(worker, message) for message in messages]

    def send(self, worker, message):
        if isinstance(message, say.Prepare):
            images, texts = random_tables(images=ROWS, captions=0, classes=np.zeros(ROWS, int))
            made = create_store(self.store, self.plan, images=[images], texts=[texts])
            assert message.passes is None or not made
            prepared = say.Prepared(passes=((self.header,),), sampled={"vision": 0}, is_new=made, dropped={})
            self.tell(worker, prepared, say.Ask())
        elif isinstance(message, say.Lease):
            self.tell(worker, *self.script(worker, message))

    def good(self, _worker, lease, bad=()):
        rows = self.header.unit_rows(lease.unit)
        quarantined = [QuarantinedRow(row=r, id=f"s{r:06d}", reason="bad") for r in rows if r in bad]
        arrays = {
            a.name: np.ones((len(rows), *a.shape[1:]), a.dtype)
            for a in self.header.arrays
            if a.name != "status"
        }
        FeatureWriter(self.store, self.header).write_unit(lease.unit, arrays, quarantined=quarantined)
        stored = say.Stored(of_pass=0, unit=lease.unit, quarantined=len(quarantined), truncated=1)
        return [say.Rows(0, len(rows)), stored, say.Ask()]

    def wait(self):
        assert self.said, "nobody has anything to say: the coordinator would wait for ever"
        return [self.said.popleft()]

    def end(self, told):
        self.ended = True


def run(transport, *, max_failed=0.1, part=Part()):  # noqa: B008 - it is frozen
    warned, shown = [], []
    request = EncodeRequest(
        source="x", store=str(transport.store), options=EncodeOptions(max_failed=max_failed)
    )
    crew = Crew(
        request, transport, part=part, label="2 × cpu", on_progress=shown.append, on_warning=warned.append
    )
    try:
        return crew.run(), warned, shown
    finally:
        assert transport.ended


def test_all_units_are_stored_and_the_feature_is_complete(tmp_path):
    transport = Scripted(tmp_path / "store")
    summary, warned, shown = run(transport)
    (feature,) = summary.features
    assert (feature.fresh, feature.truncated, summary.workers, summary.workers_lost) == (ROWS, 5, 2, 0)
    assert open_store(tmp_path / "store")["vision"].rows == ROWS
    assert not warned
    assert [at.done for at in shown] == sorted(at.done for at in shown)
    assert shown[-1].done == shown[-1].total == ROWS
    # Nothing is left to do: the next run makes nothing.
    assert run(Scripted(tmp_path / "store"))[0].features[0].fresh == 0


def test_a_part_leaves_the_units_of_others(tmp_path):
    summary, _, shown = run(Scripted(tmp_path / "store"), part=Part(index=2, count=2))
    assert (summary.features[0].manifest, summary.features[0].missing_units) == (None, 3)
    assert (shown[-1].done, shown[-1].total) == (8, ROWS)
    summary, _, _ = run(Scripted(tmp_path / "store"), part=Part(index=1, count=2))
    assert (summary.features[0].fresh, summary.features[0].missing_units) == (12, 0)


def test_a_worker_that_dies_is_replaced_and_its_unit_made_by_others(tmp_path):
    def script(worker, lease):
        if lease.unit == 2 and transport.starts[worker] == 1:
            return [say.Rows(0, 3), say.Died("signal SIGKILL")]
        return transport.good(worker, lease)

    transport = Scripted(tmp_path / "store", script)
    summary, warned, shown = run(transport)
    assert summary.features[0].fresh == ROWS
    # The unit is a suspect then; a worker that was never ended by it may have made it.
    assert 1 <= summary.workers_lost == len(warned) <= 2
    assert "signal SIGKILL; 1 units are made again by others; another one takes its place" in warned[0]
    assert shown[-1].done == ROWS


def test_a_unit_that_kills_every_worker_is_named(tmp_path):
    def script(worker, lease):
        return [say.Died("signal SIGSEGV")] if lease.unit == 3 else transport.good(worker, lease)

    transport = Scripted(tmp_path / "store", script)
    with pytest.raises(EngineError) as caught:
        run(transport)
    for words in (
        "a unit ended 3 workers",
        "'vision', unit 3: rows 12 to 15, ids 's000012' to 's000015'",
        "SIGSEGV",
    ):
        assert words in str(caught.value)
    # All others are stored by then, and the same command goes on.
    assert open_store(tmp_path / "store").progress("vision") == (4, 5)
    assert run(Scripted(tmp_path / "store"))[0].features[0].manifest is not None


def test_an_error_of_the_machine_counts_as_a_death(tmp_path):
    def script(worker, lease):
        if worker == 1:
            failed = say.Failed(RuntimeError("CUDA error: an illegal memory access"), everywhere=False)
            return [failed, say.Died("exit code 0")]
        return transport.good(worker, lease)

    transport = Scripted(tmp_path / "store", script)
    summary, warned, _ = run(transport)
    assert summary.features[0].fresh == ROWS
    assert "CUDA error" in warned[0]


def test_an_error_that_any_worker_would_have_ends_the_run(tmp_path):
    failed = say.Failed(DiskFullError("the disk is full"), everywhere=True)
    transport = Scripted(tmp_path / "store", lambda _worker, _lease: [failed])
    with pytest.raises(DiskFullError, match="the disk is full"):
        run(transport)


def test_workers_that_never_come_up_are_given_up(tmp_path):
    class Stillborn(Scripted):
        def start(self, worker):
            self.starts[worker] += 1
            self.tell(worker, say.Died("signal SIGILL"))

    transport = Stillborn(tmp_path / "store")
    with pytest.raises(EngineError, match=r"every worker ended again and again\n  found: signal SIGILL"):
        run(transport)
    assert transport.starts == {0: 3, 1: 3}


def test_a_worker_that_dies_while_it_plans_is_followed_by_another(tmp_path):
    class DiesPlanning(Scripted):
        def send(self, worker, message):
            if isinstance(message, say.Prepare) and worker == 0 and self.starts[0] == 1:
                self.tell(worker, say.Died("signal SIGKILL"))
            else:
                super().send(worker, message)

    summary, warned, _ = run(DiesPlanning(tmp_path / "store"))
    assert summary.features[0].fresh == ROWS
    assert "it had no unit in hand" in warned[0]


def test_too_many_unreadable_rows_end_the_run_whoever_saw_them(tmp_path):
    def script(worker, lease):
        return transport.good(worker, lease, bad={0, 5, 9})

    transport = Scripted(tmp_path / "store", script)
    with pytest.raises(TooManyFailedError, match="3 of 20 rows quarantined"):
        run(transport)


def test_an_interruption_ends_the_workers(tmp_path):
    def script(_worker, _lease):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Scripted(tmp_path / "store", script))


def test_labels_for_a_person():
    assert label_of(["cpu", "cpu"]) == "2 × cpu"
    assert label_of(["cuda:0", "cuda:3"]) == "2 × cuda"
    assert label_of(["cuda"]) == "cuda"
