"""What a training checks and makes before its first step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ppap_lib.device import torchrun_rank
from ppap_lib.errors import TrainingError
from ppap_lib.training.checkpoints import crc32
from ppap_lib.training.objectives import Objective


def refuse_torchrun() -> None:
    """Raise `TrainingError` in one of several processes, before anything is computed in each."""
    if (world := torchrun_rank()[1]) > 1:
        raise TrainingError(
            f"training runs in one process and torchrun started {world}: start it with plain "
            f"python (what divides is sampling: ppap generate)"
        )


def check_samples(data: Tensor, labels: Any) -> None:
    """Raise `TrainingError` unless `data` are samples of a kind that is read, and have `labels`."""
    pixels = data.dtype == torch.uint8 and data.ndim == 4
    counts = {len(label) for label in tree_leaves(labels)}
    if not len(data) or not (pixels or data.is_floating_point()) or counts != {len(data)}:
        raise TrainingError(
            f"expected uint8 pixels [N, C, H, W] or floating samples [N, ...], and one label "
            f"each, not {data.dtype} {list(data.shape)} and {sorted(counts)} labels"
        )


def held(data: Tensor, device: torch.device) -> Tensor:
    """Return samples, `data`, on a `device`, or the CPU if they take half of its free memory."""
    if device.type == "cuda" and data.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return data.cpu()
    return data.to(device)


def levels_of(objective: Objective) -> str:
    """Return the checksum of an `objective`'s noise levels, of which it prints nothing."""
    schedule = getattr(objective, "schedule", None)
    return "none" if schedule is None else f"crc32 {crc32(schedule.alphas_cumprod):08x}"


def averaged(
    ema: nn.Module, network: nn.Module
) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return what an `ema` averages, the `network`'s own of that, and the pairs that it copies.

    A frozen parameter is its own average.
    """
    frozen = {n for n, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
    averages, own = ema.state_dict(), network.state_dict()
    pairs = [(averages[name], own[name]) for name in own if name not in frozen]
    floating = [(a, b) for a, b in pairs if a.is_floating_point()]
    counters = [(a, b) for a, b in pairs if not a.is_floating_point()]
    return [a for a, _ in floating], [b for _, b in floating], counters


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups for AdamW: `weight_decay` for matrices and kernels, none for biases and norms.

    Position and class embeddings that a timm network excludes by name are not decayed either.
    """
    excluded = {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim > 1 and name not in excluded]
    rest = [p for name, p in trained if p.ndim <= 1 or name in excluded]
    return [
        {"params": decayed, "weight_decay": weight_decay, "decayed": True},
        {"params": rest, "weight_decay": 0.0, "decayed": False},
    ]
