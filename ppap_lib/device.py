"""Devices by name, the processes that torchrun starts with one for each, and titles of devices.

>>> pick_device("cpu")
device(type='cpu')
"""

import os
import platform

import torch

from ppap_lib.errors import InputError


def pick_device(name: torch.device | str = "auto") -> torch.device:
    """Return the device of this name.

    With a GPU, cuDNN's convolutions in float32 are float32 from then on, as on a CPU: by torch's
    default they round to TF32, ten bits.

    Parameters
    ----------
    name
        "cpu", "cuda" or "cuda:1"; "auto" is the GPU where there is one.

    Raises
    ------
    InputError
        For another name, or a GPU that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    unknown = InputError(f"no device {str(name)!r}: write auto, cpu, cuda or cuda:1")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown from error
    if device.type not in ("cpu", "cuda"):  # others lack float64, in which noise is drawn, or more
        raise unknown
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {str(name)!r} was asked for and this machine has no GPU")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(
            f"device {str(name)!r} was asked for and this machine has {count}, numbered from cuda:0"
        )
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def device_for_rank(name: torch.device | str = "auto") -> torch.device:
    """Return this process's own device, where torchrun runs one for each GPU.

    Parameters
    ----------
    name
        As for `pick_device`. A GPU without a number is the one numbered `$LOCAL_RANK`, or the next
        in turn where there are fewer GPUs than processes.

    Raises
    ------
    InputError
        As `pick_device` does.
    """
    device, local = pick_device(name), _number_of("LOCAL_RANK")
    if device.type != "cuda" or device.index is not None or local is None:
        return device
    return pick_device(f"cuda:{local % torch.cuda.device_count()}")


def torchrun_rank() -> tuple[int, int]:
    """Return the number of this process among those that torchrun started, and how many there are.

    Without torchrun's environment, that is `$RANK` and `$WORLD_SIZE`, it is process 0 of 1.
    A variable that is empty is not set.

    Raises
    ------
    InputError
        If one of the two is set alone, or they are no whole numbers with 0 <= rank < size: this
        process would do another's work, or leave some undone.
    """
    rank, world = _number_of("RANK"), _number_of("WORLD_SIZE")
    if rank is None and world is None:
        return 0, 1
    if rank is None or world is None or rank >= world:
        values = " and ".join(f"{n}={os.environ.get(n, '')}" for n in ("RANK", "WORLD_SIZE"))
        raise InputError(
            f"{values} are no process's environment: start it by torchrun, which sets both, or "
            f"unset both"
        )
    return rank, world


def _number_of(variable: str) -> int | None:
    """The whole number that an environment variable holds, or None if it is empty or not set."""
    text = os.environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise InputError(
            f"{variable}={text} is no process's number: start it by torchrun, or unset it"
        )
    return int(text) if text else None


def device_title(device: torch.device | str) -> str:
    """Return the name of a `device`: the GPU's own, or such as "cpu x86_64, 2 threads"."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu {platform.machine()}, {torch.get_num_threads()} threads"
    return str(device)
