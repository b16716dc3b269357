"""A GPU that is there and not used is named."""

from pathlib import Path

import pytest
import torch

from embedstore.encoders import device


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend a machine: whether torch sees a GPU, and whether the driver's device files are there."""

    def pretend(*, torch_sees, files):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(torch_sees))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
        for name in files:
            (tmp_path / name).touch()
        monkeypatch.setattr(device, "Path", lambda p: tmp_path if p == "/dev" else Path(p))

    return pretend


def test_a_gpu_that_torch_sees_but_is_not_asked_for(machine):
    machine(torch_sees=True, files=[])
    assert "although a GPU is here (H100)" in device.unused_gpu("cpu")
    assert device.unused_gpu("auto") is None


def test_a_gpu_that_torch_cannot_use(machine):
    machine(torch_sees=False, files=["nvidia0"])
    assert "install a CUDA build" in device.unused_gpu("cpu")


def test_no_gpu_no_word(machine):
    machine(torch_sees=False, files=["nvidiactl", "null"])
    assert device.unused_gpu("cpu") is None
