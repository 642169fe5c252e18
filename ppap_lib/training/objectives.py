"""What is minimised: the denoiser's hybrid loss, and cross-entropy for classifiers.

An objective is `(network, samples [B, ...], labels [B, ...], generator) -> loss []`. It draws all
its randomness from the generator, so that a step is a function of its number, and reads no value
back from the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.diffusion.levels import CLEAN, Level, Posterior, per_image
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError

Objective = Callable[[nn.Module, Tensor, Any, torch.Generator], Tensor]


def gaussian_kl(mean: Tensor, log_var: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """Return KL(N(mean, exp log_var) || N(mean2, exp log_var2)) of every element, in nats."""
    gap = (mean - mean2) ** 2 * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var + torch.exp(log_var - log_var2) + gap - 1)


def gaussian_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return -log N(x; mean, exp log_var) of every element, in nats, for continuous data."""
    return 0.5 * (math.log(2 * math.pi) + log_var + (x - mean) ** 2 * torch.exp(-log_var))


def discretised_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return -log p of every 8-bit pixel, in nats: a Gaussian integrated over the pixel's bin.

    Bins are 2/255 wide. The first and the last reach to infinity, so that the probabilities of the
    256 values sum to one.

    Parameters
    ----------
    x : Tensor
        Pixels in [-1, 1] that stand for the 256 values of a byte.
    mean, log_var : Tensor
        The Gaussian, of a shape that broadcasts with `x`.

    References
    ----------
    Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 13.
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


Likelihood = Literal["discretised", "gaussian"]
_LIKELIHOODS = {"discretised": discretised_nll, "gaussian": gaussian_nll}


@dataclass(frozen=True, repr=False)
class DenoiserLoss:
    """Squared error of a denoiser and, for learned variances, the variational bound.

    The hybrid loss of Nichol & Dhariwal 2021: the bound, in bits per dimension and weighted by
    T/1000, trains the variance alone, as the mean is held fixed in it.

    Parameters
    ----------
    schedule : Schedule
        The noise levels.
    prediction : {"v", "eps", "x0"}
        What the network outputs, [B, C, ...].
    learned_variance : bool
        Whether the network outputs [B, 2C, ...], ADM's variance fraction as the second half.
    min_snr : float, optional
        Cap of the weight of the squared error in x0 units, min(SNR, min_snr) (Hang et al. 2023).
        Without it the squared error of what is predicted is left as it is.
    flip : bool
        Whether half of the images [B, C, H, W] are mirrored.
    likelihood : {"discretised", "gaussian"}
        What the bound's last term takes the data for: pixels of 8 bits, or continuous numbers.

    Raises
    ------
    TrainingError
        If `prediction` or `likelihood` is unknown or `min_snr` is not positive; when called, if
        the network's output has another shape.

    Examples
    --------
    >>> import torch
    >>> from ppap_lib.diffusion.schedules import Schedule
    >>> loss = DenoiserLoss(Schedule.linear(), "eps", learned_variance=False)
    >>> series = torch.zeros(4, 6, 24)
    >>> knows_nothing = lambda x_t, t: torch.zeros_like(x_t)
    >>> eps = torch.ones(4, 6, 24)
    >>> loss.per_sample(knows_nothing, series, torch.tensor([0, 9, 99, 999]), eps)
    tensor([1., 1., 1., 1.])
    """

    schedule: Schedule
    prediction: str = "v"
    learned_variance: bool = True
    min_snr: float | None = None
    flip: bool = False
    likelihood: Likelihood = "discretised"
    _tables: dict[torch.device, dict[str, Tensor]] = field(
        default_factory=dict, init=False, compare=False
    )

    def __post_init__(self):
        if self.prediction not in ADAPTERS:
            raise TrainingError(
                f"prediction is one of {', '.join(ADAPTERS)}, not {self.prediction!r}"
            )
        if self.likelihood not in _LIKELIHOODS:
            raise TrainingError(
                f"likelihood is one of {', '.join(_LIKELIHOODS)}, not {self.likelihood!r}"
            )
        if self.min_snr is not None and self.min_snr <= 0:
            raise TrainingError(f"min_snr must be positive, not {self.min_snr}")

    def __repr__(self) -> str:
        # By this a checkpoint knows its run: older ones do not name the likelihood of pixels.
        names = ["prediction", "learned_variance", "min_snr", "flip"]
        names += ["likelihood"] if self.likelihood != "discretised" else []
        return f"DenoiserLoss({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __call__(
        self, network: nn.Module, samples: Tensor, labels: Any, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of a batch [B, C, ...]; labels are not used."""
        if self.flip:
            samples = flipped(samples, generator)
        t = stratified_times(len(samples), self.schedule.T, generator)
        eps = torch.randn(samples.shape, device=samples.device, generator=generator)
        return self.per_sample(network, samples, t, eps).mean()

    def per_sample(self, network: nn.Module, samples: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the `network`'s loss [B] of samples noised to `t` [B] by `eps` [B, C, ...]."""
        simple, bound = self.terms(network, samples, t, eps)
        return simple if bound is None else simple + self.schedule.T / 1000 * bound

    def terms(
        self, network: nn.Module, samples: Tensor, t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the two terms of the loss of samples noised to a timestep.

        Parameters
        ----------
        network : nn.Module
            Called with x_t and t.
        samples, eps : Tensor
            Clean samples and standard normal noise, [B, C, ...].
        t : Tensor
            Timesteps, int64 [B].

        Returns
        -------
        (Tensor, Tensor or None)
            The weighted squared error [B]; with learned variance, the bound in bits per dimension
            [B].
        """
        tables = self.tables(samples.device)
        alpha, sigma = (per_image(tables[name][t], samples) for name in ("alpha", "sigma"))
        x_t = alpha * samples + sigma * eps
        out, fraction = self._split(network(x_t, t.float()).float(), samples)
        target = {"eps": eps, "x0": samples, "v": alpha * eps - sigma * samples}[self.prediction]
        simple = (out - target).pow(2).flatten(1).mean(1) * tables["weight"][t]
        if fraction is None:
            return simple, None
        # Detached: the bound trains the variance alone, the simple loss the mean.
        x0 = _x0(self.prediction, out.detach(), x_t, alpha, sigma)
        return simple, self.bound(samples, x_t, x0, fraction, t)

    def bound(
        self, samples: Tensor, x_t: Tensor, x0: Tensor, fraction: Tensor, t: Tensor
    ) -> Tensor:
        """Return the variational bound's term at t, in bits per dimension.

        The KL divergence between the posterior q(x_{t-1} | x_t, samples) and the model's; at t = 0
        the negative log-likelihood of the samples.

        Parameters
        ----------
        samples, x_t : Tensor
            Clean and noised samples [B, C, ...].
        x0 : Tensor
            What the model takes for the clean samples: its mean follows from it.
        fraction : Tensor
            In [-1, 1]: where the model's log variance lies between the posterior's and log beta.
        t : Tensor
            Timesteps, int64 [B].

        Returns
        -------
        Tensor
            [B].
        """
        tables = self.tables(samples.device)
        from_x0, from_x_t, posterior, log_beta = (
            per_image(tables[name][t], samples)
            for name in ("from_x0", "from_x_t", "log_variance", "log_beta")
        )
        share = (fraction + 1) / 2
        log_var = share * log_beta + (1 - share) * posterior
        mean = from_x0 * x0 + from_x_t * x_t
        kl = gaussian_kl(from_x0 * samples + from_x_t * x_t, posterior, mean, log_var)
        nll = _LIKELIHOODS[self.likelihood](samples, mean, log_var)
        first = (t == 0).view(-1, *[1] * (samples.ndim - 1))
        return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        """Return constants of every t, [T] in float32 on `device`, formed in float64 once."""
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

    def _split(self, out: Tensor, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's prediction and variance fraction (None without learned variance)."""
        count, channels, *rest = samples.shape
        expected = (count, channels * (1 + self.learned_variance), *rest)
        if out.shape != expected:
            raise TrainingError(
                f"the network returned {list(out.shape)} for samples {list(samples.shape)}; with "
                f"learned_variance={self.learned_variance} the loss expects {list(expected)}"
            )
        return tuple(out.chunk(2, dim=1)) if self.learned_variance else (out, None)


def _x0(prediction: str, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean samples that a network's output implies."""
    if prediction == "eps":
        return (x_t - sigma * out) / alpha
    return alpha * x_t - sigma * out if prediction == "v" else out


def snr_weight(schedule: Schedule, prediction: str, min_snr: float | None) -> Tensor:
    """Return the Min-SNR weights [T] of the squared error of `prediction` under a `schedule`.

    min(SNR, min_snr) in x0 units, divided by the SNR for eps and by SNR + 1 for v, by which those
    errors exceed x0's; ones where `min_snr` is None.

    References
    ----------
    Hang et al. 2023, "Efficient diffusion training via Min-SNR weighting strategy", eqs. 4-6.
    """
    snr = schedule.log_snr.exp()
    if min_snr is None:
        return torch.ones_like(snr)
    in_x0_units = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return snr.clamp(max=min_snr) / in_x0_units


def stratified_times(count: int, T: int, generator: torch.Generator) -> Tensor:
    """Draw integer times [count], one uniform in each of `count` equal parts of 0..T-1, rising.

    They are uniform like independent draws, and the loss varies less. Samples come shuffled, so
    that the order does not matter. They are on the device of `generator`.
    """
    device = generator.device
    u = torch.rand(count, device=device, generator=generator)
    t = (torch.arange(count, device=device) + u) / count * T
    return t.long().clamp(max=T - 1)  # rounding may reach T


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror images [B, C, H, W] left to right, each with probability one half.

    `generator` decides which. Raises `TrainingError` for samples of another shape.
    """
    if images.ndim != 4:
        raise TrainingError(f"images [B, C, H, W] can be mirrored, not {list(images.shape)}")
    coin = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(coin.view(-1, 1, 1, 1), images.flip(3), images)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each of the `images` [B, C, H, W] by up to `most` pixels along either axis.

    What enters is black; `generator` decides how far.
    """
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
    """Fill a random rectangle of half of the `images` with noise (after Zhong et al. 2020).

    It is 0.1 to 0.5 of a side, and cut off at the right and lower edge. `generator` decides all.
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
class Augmentation:
    """Training views of images [B, C, H, W] in [-1, 1]: mirrored, moved, with a part erased.

    Parameters
    ----------
    flip, erase : bool
        Whether half of the images are mirrored; whether half of them lose a rectangle to noise.
    shift : int
        Pixels by which an image is moved at most.
    """

    flip: bool = True
    shift: int = 2
    erase: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a view of the `images`, of their shape; `generator` decides which."""
        if self.flip:
            images = flipped(images, generator)
        if self.shift:
            images = shifted(images, self.shift, generator)
        return erased(images, generator) if self.erase else images


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy on clean images, augmented by flips, shifts and, for a judge, erasing.

    Parameters
    ----------
    smoothing : float
        Label smoothing, in [0, 1).
    flip, shift, erase
        As for `Augmentation`.

    Raises
    ------
    TrainingError
        If `smoothing` or `shift` is out of its range.
    """

    smoothing: float = 0.1
    flip: bool = True
    shift: int = 2
    erase: bool = False

    def __post_init__(self):
        if not 0 <= self.smoothing < 1 or self.shift < 0:
            raise TrainingError(
                f"expected smoothing in [0, 1) and shift >= 0, not {self.smoothing}, {self.shift}"
            )

    @property
    def augmentation(self) -> Augmentation:
        """The training views of which the cross-entropy is taken."""
        return Augmentation(self.flip, self.shift, self.erase)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        logits = network(self.augmentation(images, generator)).float()
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
