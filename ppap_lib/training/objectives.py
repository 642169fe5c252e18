"""What is minimised: the denoiser's hybrid loss, and cross-entropy for classifiers.

An objective is `(network, images [B, C, H, W], labels [B], generator) -> loss []`; it draws
all its randomness from the generator, so a step is a function of its number. Nothing here
reads a value back from the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.diffusion.levels import CLEAN, Level, Posterior
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError

Objective = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def gaussian_kl(mean: Tensor, log_var: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean, exp log_var) || N(mean2, exp log_var2)) per element, in nats."""
    gap = (mean - mean2) ** 2 * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var + torch.exp(log_var - log_var2) + gap - 1)


def discretised_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log p in nats of 8-bit pixels `x` in [-1, 1], a Gaussian integrated over each one's bin.

    Bins are 2/255 wide; the first and the last reach to infinity, so that the 256 values'
    probabilities sum to one (Ho et al. 2020, eq. 13).
    """
    half, beyond = 1 / 255, 10.0  # no Gaussian that matters reaches further than `beyond`
    low = torch.where(x < -0.999, x - beyond, x - half) - mean
    high = torch.where(x > 0.999, x + beyond, x + half) - mean
    # Mirrored into the lower tail, where the logarithm of the normal cdf keeps its digits.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    inverse = torch.exp(-log_var / 2)
    log_low, log_high = (torch.special.log_ndtr(edge * inverse) for edge in (low, high))
    return -(log_high + torch.log1p(-torch.exp(log_low - log_high)))


def _column(values: Tensor, t: Tensor) -> Tensor:
    return values[t].view(-1, 1, 1, 1)


@dataclass(frozen=True)
class DenoiserLoss:
    """Simple loss plus, for learned variances, the variational bound (Nichol & Dhariwal 2021).

    `prediction` is what the network outputs: "eps", "x0" or "v". With `learned_variance` its
    second half is ADM's variance fraction, trained by T/1000 times the bound in bits per
    dimension with the mean held fixed. `min_snr` caps the weight of the squared error in x0
    units: min(SNR, min_snr) (Hang et al. 2023); None leaves the plain squared error of what
    is predicted. `flip` mirrors half of the images.
    """

    schedule: Schedule = field(repr=False)
    prediction: str = "v"
    learned_variance: bool = True
    min_snr: float | None = None
    flip: bool = False
    _tables: dict[torch.device, dict[str, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        if self.prediction not in ADAPTERS:
            raise TrainingError(
                f"prediction is one of {', '.join(ADAPTERS)}, not {self.prediction!r}"
            )
        if self.min_snr is not None and self.min_snr <= 0:
            raise TrainingError(f"min_snr must be positive, not {self.min_snr}")

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The mean loss of a batch; labels are not used."""
        if self.flip:
            images = flipped(images, generator)
        t = stratified_times(len(images), self.schedule.T, generator)
        eps = torch.randn(images.shape, device=images.device, generator=generator)
        return self.per_image(network, images, t, eps).mean()

    def per_image(self, network: nn.Module, images: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The loss [B] of images noised to integer `t` [B] by `eps` [B, C, H, W]."""
        simple, bound = self.terms(network, images, t, eps)
        return simple if bound is None else simple + self.schedule.T / 1000 * bound

    def terms(
        self, network: nn.Module, images: Tensor, t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The weighted squared error [B], and the bound in bits per dimension [B] or None."""
        tables = self.tables(images.device)
        alpha, sigma = _column(tables["alpha"], t), _column(tables["sigma"], t)
        x_t = alpha * images + sigma * eps
        out, fraction = self._split(network(x_t, t.float()).float(), images)
        target = {"eps": eps, "x0": images, "v": alpha * eps - sigma * images}[self.prediction]
        simple = (out - target).pow(2).flatten(1).mean(1) * tables["weight"][t]
        if fraction is None:
            return simple, None
        # Detached: the bound trains the variance alone, the simple loss the mean.
        x0 = _x0(self.prediction, out.detach(), x_t, alpha, sigma)
        return simple, self.bound(images, x_t, x0, fraction, t)

    def bound(self, images: Tensor, x_t: Tensor, x0: Tensor, fraction: Tensor, t: Tensor) -> Tensor:
        """The variational bound's term at t, in bits per dimension: [B].

        KL between the posterior q(x_{t-1} | x_t, images) and the model's, whose mean follows
        from its `x0` and whose log variance is interpolated by `fraction` in [-1, 1]; at t = 0
        the negative log-likelihood of the pixels.
        """
        tables = self.tables(images.device)
        from_x0, from_x_t, posterior, log_beta = (
            _column(tables[name], t) for name in ("from_x0", "from_x_t", "log_variance", "log_beta")
        )
        share = (fraction + 1) / 2
        log_var = share * log_beta + (1 - share) * posterior
        mean = from_x0 * x0 + from_x_t * x_t
        kl = gaussian_kl(from_x0 * images + from_x_t * x_t, posterior, mean, log_var)
        first = (t == 0).view(-1, 1, 1, 1)
        nats = torch.where(first, discretised_nll(images, mean, log_var), kl)
        return nats.flatten(1).mean(1) / math.log(2)

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        """Per-t constants [T] in float32 on `device`, formed in float64 once per device."""
        if device not in self._tables:
            now = self.schedule.at(torch.arange(self.schedule.T))
            before = Level(
                now.t - 1,
                torch.cat([CLEAN.alpha.view(1), now.alpha[:-1]]),
                torch.cat([CLEAN.sigma.view(1), now.sigma[:-1]]),
            )
            posterior = Posterior.between(now, before)
            variance = posterior.variance.clone()
            # The last step's posterior variance is zero: as in ADM, its neighbour's instead.
            variance[0] = variance[1] if self.schedule.T > 1 else posterior.beta[0]
            tables = {
                "alpha": now.alpha,
                "sigma": now.sigma,
                "log_beta": posterior.beta.log(),
                "log_variance": variance.log(),
                "from_x0": posterior.from_x0,
                "from_x_t": posterior.from_x_t,
                "weight": snr_weight(self.schedule, self.prediction, self.min_snr),
            }
            self._tables[device] = {k: v.float().to(device) for k, v in tables.items()}
        return self._tables[device]

    def _split(self, out: Tensor, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's prediction and variance fraction (None without learned variance)."""
        count, channels, height, width = images.shape
        expected = (count, channels * (1 + self.learned_variance), height, width)
        if out.shape != expected:
            raise TrainingError(
                f"the network returned {list(out.shape)} for images {list(images.shape)}; with "
                f"learned_variance={self.learned_variance} the loss expects {list(expected)}"
            )
        return tuple(out.chunk(2, dim=1)) if self.learned_variance else (out, None)


def _x0(prediction: str, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a network's output implies."""
    if prediction == "eps":
        return (x_t - sigma * out) / alpha
    return alpha * x_t - sigma * out if prediction == "v" else out


def snr_weight(schedule: Schedule, prediction: str, min_snr: float | None) -> Tensor:
    """Min-SNR weights [T] of the squared error of `prediction`; ones where `min_snr` is None.

    min(SNR, min_snr) in x0 units, divided by the SNR for eps and by SNR + 1 for v, which is
    what those errors exceed x0's by (Hang et al. 2023, eqs. 4-6).
    """
    snr = schedule.log_snr.exp()
    if min_snr is None:
        return torch.ones_like(snr)
    in_x0_units = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return snr.clamp(max=min_snr) / in_x0_units


def stratified_times(count: int, T: int, generator: torch.Generator) -> Tensor:
    """Integer times [count], one uniform in each of `count` equal parts of 0..T-1, rising.

    Uniform like independent draws, with less variance in the loss; images come shuffled, so
    the order does not matter.
    """
    device = generator.device
    u = torch.rand(count, device=device, generator=generator)
    t = (torch.arange(count, device=device) + u) / count * T
    return t.long().clamp(max=T - 1)  # rounding may reach T


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    coin = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(coin.view(-1, 1, 1, 1), images.flip(3), images)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `most` pixels along either axis, black where it came from."""
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
    """Half of the images with a random rectangle, 0.1 to 0.5 of a side, filled with noise.

    The rectangle is cut off at the right and lower edge (after Zhong et al. 2020).
    """
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
    """Cross-entropy on clean images, augmented by flips, shifts and, for a judge, erasing."""

    smoothing: float = 0.1
    flip: bool = True
    shift: int = 2
    erase: bool = False

    def __post_init__(self):
        if not 0 <= self.smoothing < 1 or self.shift < 0:
            raise TrainingError(
                f"expected smoothing in [0, 1) and shift >= 0, not {self.smoothing}, {self.shift}"
            )

    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A training view of every image: same shape and range."""
        if self.flip:
            images = flipped(images, generator)
        if self.shift:
            images = shifted(images, self.shift, generator)
        return erased(images, generator) if self.erase else images

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The mean cross-entropy of a batch."""
        logits = network(self.augmented(images, generator)).float()
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
