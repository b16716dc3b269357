"""Results taken in later than they are computed, as on a GPU: the same units in the same order."""

from collections import deque

import pytest
import torch

from embedstore.encode import EncodeOptions, encode_source, images
from embedstore.encode.collecting import Collector
from embedstore.errors import StorageValueError


class LateCollector(Collector):
    """Runs each step as late as a GPU's may run."""

    most = 0

    def __init__(self):
        super().__init__()
        self.late = deque()

    @property
    def behind(self):
        return bool(self.late)

    def put(self, step, device):
        self.wait_for(1)
        self.late.append(step)
        LateCollector.most = max(LateCollector.most, len(self.late))

    def wait_for(self, steps):
        while len(self.late) > steps:
            self.late.popleft()()


def tree(store):
    """Relative path -> bytes of every file."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("batch_size", [5, 16, 64])
def test_units_whose_results_come_late_are_the_same(
    picture_folder, tiny_vision, tmp_path, monkeypatch, batch_size
):
    broken = sorted(picture_folder.rglob("*.png"))
    for path in broken[::7]:
        path.write_bytes(b"not a picture")

    def make(name):
        return encode_source(
            str(picture_folder),
            tmp_path / name,
            image_encoders=[f"v=hf:{tiny_vision}?layers=1,2"],
            options=EncodeOptions(batch_size=batch_size, shard_rows=16, device="cpu", max_failed=0.5),
        )

    at_once = tree(make("at_once").store)
    monkeypatch.setattr(images, "Collector", LateCollector)
    assert tree(make("late").store) == at_once
    assert LateCollector.most == 2


def test_a_unit_without_a_picture_that_can_be_read_waits_for_the_one_before(
    picture_folder, tiny_vision, tmp_path, monkeypatch
):
    for path in picture_folder.rglob("*.png"):
        path.write_bytes(b"")
    monkeypatch.setattr(images, "Collector", LateCollector)
    made = encode_source(
        str(picture_folder),
        tmp_path / "store",
        image_encoders=[f"v=hf:{tiny_vision}"],
        options=EncodeOptions(batch_size=4, shard_rows=16, device="cpu", max_failed=1),
    )
    assert made.features[0].manifest.quarantined == 100


def test_on_a_cpu_a_step_is_done_when_it_is_put():
    done = []
    with Collector() as collector:
        collector.put(lambda: done.append(1), torch.device("cpu"))
        assert (done, collector.behind) == ([1], False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_steps_see_what_was_computed_before_them():
    device = torch.device("cuda")
    found = []
    with Collector() as collector:
        for k in range(6):
            made = torch.full((2048, 2048), float(k), device=device)
            for _ in range(20):
                made = made @ torch.eye(2048, device=device)
            collector.put(lambda made=made: found.append(float(made.cpu().mean())), device)
        collector.wait_for(0)

        def fail():
            raise StorageValueError("too large")

        collector.put(fail, device)
        with pytest.raises(StorageValueError):
            collector.wait_for(0)
    assert found == [0, 1, 2, 3, 4, 5]
