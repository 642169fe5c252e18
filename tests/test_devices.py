"""Devices by name."""

import pytest
import torch

from ppap_lib import devices


def test_auto_is_the_gpu_where_there_is_one():
    assert devices.pick().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.pick("cpu") == torch.device("cpu")


def test_a_title_says_what_a_timing_depends_on():
    assert devices.title("cpu").endswith(f"{torch.get_num_threads()} threads")


def test_unknown_and_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(devices.DeviceError, match="no device 'gpu': write auto, cpu"):
        devices.pick("gpu")
    with pytest.raises(devices.DeviceError, match="asked for and this machine has no GPU"):
        devices.pick("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.pick("cuda") == torch.device("cuda")
    assert devices.pick("cuda:1") == torch.device("cuda:1")
    with pytest.raises(devices.DeviceError, match="'cuda:2' was asked for and this machine has 2"):
        devices.pick("cuda:2")
