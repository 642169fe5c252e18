"""Devices by name."""

import pytest
import torch

from ppap_lib import zoo
from ppap_lib.device import device_for_rank, device_title, pick_device
from ppap_lib.errors import InputError


def test_auto_is_the_gpu_where_there_is_one():
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_title_says_what_a_timing_depends_on():
    assert device_title("cpu").endswith(f"{torch.get_num_threads()} threads")


@pytest.mark.parametrize(
    "load",
    [
        lambda device: zoo.load("fashion/judge", device),
        lambda device: zoo.load("fashion/denoiser", device).denoise,
        lambda device: zoo.load("fashion/ppap5-resnet18", device),
    ],
)
def test_networks_are_loaded_to_devices_by_name(load, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load("auto")
    for name in ("gpu", "cuda"):
        with pytest.raises(InputError):
            load(name)


def test_unknown_and_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("gpu", "mps", "meta"):
        with pytest.raises(InputError, match=f"no device '{name}': write auto, cpu"):
            pick_device(name)
    with pytest.raises(InputError, match="asked for and this machine has no GPU"):
        pick_device("cuda:1")
    with pytest.raises(InputError, match="'cuda:0' was asked for"):
        pick_device(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="'cuda:2' was asked for and this machine has 2"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "picked"),
    [
        ("auto", 2, "1", "cuda:1"),
        ("cuda", 2, "0", "cuda:0"),
        ("cuda", 1, "1", "cuda:0"),  # a launcher that shows every process one GPU
        ("cuda", 2, "5", "cuda:1"),
        ("cuda:0", 2, "1", "cuda:0"),  # as asked
        ("cuda", 2, None, "cuda"),
        ("cuda", 2, "", "cuda"),  # not set
        ("cpu", 2, "1", "cpu"),
    ],
)
def test_processes_of_torchrun_have_a_gpu_each(monkeypatch, asked, gpus, rank, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device_for_rank(asked) == torch.device(picked)


def test_float32_on_a_gpu_is_not_rounded_to_less(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert pick_device("cpu").type == "cpu" and torch.backends.cudnn.allow_tf32
    assert pick_device().type == "cuda" and not torch.backends.cudnn.allow_tf32
