"""What engines may be told."""

import pytest

from embedstore.encode import EncodeOptions, EngineOptions, Part, encode_source
from embedstore.encode.engines import devices as dev
from embedstore.errors import UsageError


def test_devices_are_a_list_one_a_process():
    assert dev.parse_devices("cpu") == ["cpu"]
    assert dev.parse_devices("cpu,cpu") == dev.parse_devices("2xcpu") == ["cpu", "cpu"]
    assert dev.parse_devices("2xcpu, cpu") == ["cpu"] * 3


@pytest.mark.parametrize("text", ["", "cpu,", "0-3", "2x", "x2cpu", "-1", "gpu", "0xcpu", "cpu;cpu"])
def test_other_words_are_refused(text):
    with pytest.raises(UsageError):
        dev.parse_devices(text)


def test_gpus_are_numbers_or_all_of_them(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert dev.parse_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert "one of 3 GPUs" in dev.spare_gpus("auto")
    assert dev.spare_gpus("cuda:1") is None
    assert dev.parse_devices("0,2") == dev.parse_devices("cuda:0,cuda:2") == ["cuda:0", "cuda:2"]
    with pytest.raises(UsageError, match="no such device"):
        dev.parse_devices("0,3")
    with pytest.raises(UsageError, match="several kinds"):
        dev.parse_devices("0,cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dev.spare_gpus("auto") is None
    with pytest.raises(UsageError, match="no GPU that torch can use"):
        dev.parse_devices("all")


def test_threads_are_those_asked_for_or_a_share(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert dev.threads_for(2, asked=None, cores_there=8) == 3
    assert dev.threads_for(2, asked=5, cores_there=8) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert dev.threads_for(2, asked=None, cores_there=8) == 4
    assert dev.threads_for(9, asked=None, cores_there=8) == 1


@pytest.mark.parametrize("count", [1, 3, 8])
def test_parts_share_all_units_and_none_twice(count):
    parts = [Part.parse(f"{k}/{count}") for k in range(1, count + 1)]
    for unit in range(20):
        assert sum(part.has(unit) for part in parts) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", "1/4/2", "-1/4", "1/"])
def test_bad_parts_are_refused(text):
    with pytest.raises(UsageError, match="bad part"):
        Part.parse(text)


def test_a_part_counted_from_zero_is_told_how_to_count():
    with pytest.raises(UsageError, match="1/4 to 4/4"):
        Part.parse("0/4")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": "spark"}, "local, ray"),
        ({"threads": 0}, "--threads"),
        ({"ray_workers": 2}, "add --engine ray"),
        ({"ray_address": "auto"}, "add --engine ray"),
        ({"engine": "ray", "devices": "0,1"}, "--ray-workers N"),
        ({"engine": "ray", "ray_workers": 0}, "--ray-workers"),
    ],
)
def test_options_that_do_not_fit_each_other(given, words):
    with pytest.raises(UsageError, match=words):
        EngineOptions(**given)


def test_device_and_devices_are_not_both_given(tmp_path):
    with pytest.raises(UsageError, match="give one of them"):
        encode_source(
            "scenes:2",
            tmp_path / "store",
            image_encoders=["demo:vit"],
            options=EncodeOptions(device="cpu"),
            engine=EngineOptions(devices="cpu,cpu"),
        )
