"""How a network is trained: budget, batch, learning rate and the like."""

import math
from dataclasses import dataclass

from ppap_lib.errors import TrainingError
from ppap_lib.parameters import Parameters, param


@dataclass(frozen=True)
class Settings(Parameters):
    """How long and how a network is trained.

    The budget is `steps`, or `minutes` of training time. The learning rate rises linearly over
    `warmup` steps and falls to zero as a cosine that fits the budget.

    Parameters
    ----------
    batch : int
        Samples in a step.
    lr : float
        The highest learning rate.
    weight_decay : float
        AdamW's, on matrices and kernels.
    warmup : int
        Steps over which the learning rate rises.
    ema : float
        Decay of the averaged weights, below 1.
    clip : float
        Bound of the gradient's norm; 0 leaves it as it is.
    steps, minutes : int, float, optional
        The budget: one of the two.
    seed : int
        Decides weights, order and noise.
    bf16, channels_last, compile : bool
        Faster on a GPU; on a CPU without units for bfloat16 the first does harm.
    checkpoint_every : float
        Seconds between checkpoints.
    log_every : int
        Steps between log lines.
    snapshots : tuple of int
        Numbers of images seen after which the averaged weights are kept, for quality curves.

    Raises
    ------
    InputError
        If a value is of a wrong type or out of its range.
    TrainingError
        If there is not one budget, or a rate or decay that trains nothing.

    Examples
    --------
    >>> settings = Settings(steps=1000, warmup=0, lr=0.1)
    >>> [round(settings.learning_rate(step, 0.0), 3) for step in (0, 500, 1000)]
    [0.1, 0.05, 0.0]
    """

    batch: int = param(64, low=1, help="Samples in a step.")
    lr: float = param(5e-4, low=0, help="The highest learning rate.")
    weight_decay: float = param(0.0, low=0, help="AdamW's weight decay, on matrices and kernels.")
    warmup: int = param(200, low=0, help="Steps over which the learning rate rises.")
    ema: float = param(0.999, low=0, help="Decay of the averaged weights.")
    clip: float = param(1.0, low=0, help="Bound of the gradient's norm, 0 for none.")
    steps: int | None = param(None, low=1, help="Budget in optimiser steps.")
    minutes: float | None = param(None, low=0, help="Budget in minutes of training.")
    # A generator reads 32 bits: more of them would repeat another seed.
    seed: int = param(0, low=0, high=2**32 - 1, help="Decides weights, order and noise.")
    bf16: bool = param(False, help="Compute in bfloat16.")
    channels_last: bool = param(False, help="Lay images out with channels last.")
    compile: bool = param(False, help="Compile the network.")
    checkpoint_every: float = param(180.0, low=0, help="Seconds between checkpoints.")
    log_every: int = param(50, low=1, help="Steps between log lines.")
    snapshots: tuple[int, ...] = param((), help="Images seen after which the weights are kept.")

    def __post_init__(self):
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError("give either steps or minutes, not both and not neither")
        for name in ("lr", "minutes"):
            if getattr(self, name) == 0:
                raise TrainingError(f"{name} must be positive")
        if self.ema >= 1:
            raise TrainingError(f"ema is a decay below 1, not {self.ema}")

    def fraction(self, steps: int, seconds: float) -> float:
        """Return the share of the budget, in [0, 1], that `steps` taken in `seconds` use up."""
        used = seconds / (60 * self.minutes) if self.steps is None else steps / self.steps
        return min(used, 1.0)

    def learning_rate(self, steps: int, seconds: float) -> float:
        """Return the rate of the step that follows `steps` taken in `seconds`."""
        rise = min(1.0, (steps + 1) / max(self.warmup, 1))
        fall = 0.5 * (1 + math.cos(math.pi * self.fraction(steps, seconds)))
        return self.lr * rise * fall

    def ema_decay(self, steps: int) -> float:
        """Return the decay of the average after `steps` steps.

        It ramps up, so that the initial weights do not dominate a short run's average.
        """
        return min(self.ema, (1 + steps) / (10 + steps))
