"""What is minimised: the denoiser's hybrid loss, and cross-entropy for classifiers.

An objective is `(network, images [B, C, H, W], labels [B], generator) -> loss []`; it draws
all its randomness from the generator, so a step is a function of its number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.schedule import Schedule

Objective = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


class ObjectiveError(ValueError):
    """An objective that cannot be formed."""


def _column(values: Tensor, t: Tensor) -> Tensor:
    return values[t].view(-1, 1, 1, 1)


def _gaussian_kl(mean: Tensor, log_var: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean, exp log_var) || N(mean2, exp log_var2)) per element, in nats."""
    gap = (mean - mean2) ** 2 * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var + torch.exp(log_var - log_var2) + gap - 1)


def _discretised_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log p of 8-bit pixels in [-1, 1] under a Gaussian integrated over each pixel's bin."""
    inverse, half = torch.exp(-log_var / 2), 1 / 255
    upper = torch.special.ndtr((x - mean + half) * inverse)
    lower = torch.special.ndtr((x - mean - half) * inverse)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return -(upper - lower).clamp(min=1e-12).log()


@dataclass(frozen=True)
class DenoiserLoss:
    """Simple loss plus, for learned variances, the variational bound (Nichol & Dhariwal 2021).

    `prediction` is what the network outputs: "eps", "x0" or "v". With `learned_variance` its
    second half is ADM's variance fraction, trained by 0.001 T times the bound in bits per
    dimension with the mean held fixed. `min_snr` weights by min(SNR, min_snr) in x0 units
    (Hang et al. 2023); None leaves the plain squared error of what is predicted.
    """

    schedule: Schedule
    prediction: str = "v"
    learned_variance: bool = True
    min_snr: float | None = None

    def __post_init__(self):
        if self.prediction not in ("eps", "x0", "v"):
            raise ObjectiveError(f"prediction is 'eps', 'x0' or 'v', not {self.prediction!r}")
        if self.min_snr is not None and self.min_snr <= 0:
            raise ObjectiveError(f"min_snr must be positive, not {self.min_snr}")

    def __call__(self, network, images, labels, generator) -> Tensor:
        return self.terms(network, images, generator).mean()

    def tables(self, device) -> dict[str, Tensor]:
        """Per-t constants [T] in float32 on `device`; computed once per device."""
        cache = self.__dict__.setdefault("_tables", {})
        if device not in cache:
            abar = self.schedule.alphas_cumprod
            before = torch.cat([abar.new_ones(1), abar[:-1]])
            betas = self.schedule.betas
            variance = betas * (1 - before) / (1 - abar)
            variance[0] = variance[1] if len(betas) > 1 else betas[0]
            snr = abar / (1 - abar)
            cap = snr.clamp(max=self.min_snr or torch.inf)
            weight = {"eps": cap / snr, "x0": cap, "v": cap / (snr + 1)}[self.prediction]
            tables = {
                "alpha": abar.sqrt(),
                "sigma": (1 - abar).sqrt(),
                "log_beta": betas.log(),
                "log_variance": variance.log(),
                "from_x0": betas * before.sqrt() / (1 - abar),
                "from_x_t": (1 - before) * (1 - betas).sqrt() / (1 - abar),
                "weight": weight if self.min_snr else torch.ones_like(snr),
            }
            cache[device] = {k: v.float().to(device) for k, v in tables.items()}
        return cache[device]

    def terms(self, network, images, generator) -> Tensor:
        """The loss of every image: [B]."""
        tables = self.tables(images.device)
        # Stratified over the batch: one t from each of B equal parts, in random order of use.
        count, T = len(images), self.schedule.T
        u = torch.rand(count, device=images.device, generator=generator)
        t = ((torch.arange(count, device=images.device) + u) / count * T).long().clamp(max=T - 1)
        eps = torch.randn(images.shape, device=images.device, generator=generator)
        alpha, sigma = _column(tables["alpha"], t), _column(tables["sigma"], t)
        x_t = alpha * images + sigma * eps
        out = network(x_t, t.float()).float()
        fraction = None
        if self.learned_variance:
            out, fraction = out.chunk(2, dim=1)
        target = {"eps": eps, "x0": images, "v": alpha * eps - sigma * images}[self.prediction]
        loss = (out - target).pow(2).flatten(1).mean(1) * tables["weight"][t]
        if fraction is None:
            return loss
        x0 = {
            "eps": lambda: (x_t - sigma * out) / alpha,
            "x0": lambda: out,
            "v": lambda: alpha * x_t - sigma * out,
        }[self.prediction]()
        bound = self._bound(x0.detach(), fraction, images, x_t, t, tables)
        return loss + 0.001 * T * bound

    def _bound(self, x0, fraction, images, x_t, t, tables) -> Tensor:
        """The variational bound's term at t, in bits per dimension: [B]."""
        back, along = _column(tables["from_x0"], t), _column(tables["from_x_t"], t)
        true_log_var = _column(tables["log_variance"], t)
        share = (fraction + 1) / 2
        log_var = share * _column(tables["log_beta"], t) + (1 - share) * true_log_var
        mean = back * x0 + along * x_t
        kl = _gaussian_kl(back * images + along * x_t, true_log_var, mean, log_var)
        nll = _discretised_nll(images, mean, log_var)
        first = (t == 0).view(-1, 1, 1, 1)
        return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    coin = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(coin.view(-1, 1, 1, 1), images.flip(3), images)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `most` pixels either way, black where it came from."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4, value=-1.0)
    offset = torch.randint(
        2 * most + 1, (2, count, 1, 1), device=images.device, generator=generator
    )
    rows = torch.arange(height, device=images.device).view(1, -1, 1) + offset[0]
    columns = torch.arange(width, device=images.device).view(1, 1, -1) + offset[1]
    batch = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)


def erased(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images with a random rectangle (up to half a side) filled with noise."""
    count, _, height, width = images.shape
    draw = torch.rand(5, count, 1, 1, 1, device=images.device, generator=generator)
    rows = torch.linspace(0, 1, height, device=images.device).view(1, 1, -1, 1)
    columns = torch.linspace(0, 1, width, device=images.device).view(1, 1, 1, -1)
    top, left, tall, wide = draw[0], draw[1], 0.1 + 0.4 * draw[2], 0.1 + 0.4 * draw[3]
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    noise = torch.rand(images.shape, device=images.device, generator=generator) * 2 - 1
    return torch.where(inside & (draw[4] < 0.5), noise, images)


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy on clean images, augmented by shifts, flips and, for a judge, erasing."""

    smoothing: float = 0.1
    flip: bool = True
    shift: int = 2
    erase: bool = False

    def __call__(self, network, images, labels, generator) -> Tensor:
        if self.flip:
            images = flipped(images, generator)
        if self.shift:
            images = shifted(images, self.shift, generator)
        if self.erase:
            images = erased(images, generator)
        return F.cross_entropy(network(images).float(), labels, label_smoothing=self.smoothing)
