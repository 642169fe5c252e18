"""Steps that draw noise: DDPM, DDIM and its variances, and the ancestral and churning solvers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction, check_function, fitted
from ppap_lib.diffusion.levels import Level, Posterior
from ppap_lib.diffusion.schedules import AnySchedule, check_schedule
from ppap_lib.errors import InputError, ScheduleError
from ppap_lib.parameters import real, whole
from ppap_lib.samplers.loop import Step, require_score_form
from ppap_lib.samplers.pndm import heun
from ppap_lib.samplers.quadrature import ddim_transfer

LogVariance = Callable[[Posterior, Prediction], Tensor]
"""`variance(posterior, prediction)`: log of the variance of a ddpm step, [] or [B, ...]."""


def learned_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """Return log Sigma = v log beta + (1 - v) log beta-tilde, as ADM learned it.

    Parameters
    ----------
    posterior, prediction
        The law of the step, and what the denoiser predicted: `v` among it.

    Raises
    ------
    InputError
        If the denoiser has no learned variance.

    References
    ----------
    Nichol & Dhariwal 2021, eq. 15.
    """
    if prediction.v is None:
        raise InputError(
            "this denoiser has no learned variance: use ddpm(small_variance) or "
            "ddpm(large_variance), or build its adapter with learned_variance=True"
        )
    low, high = posterior.variance.log(), posterior.beta.log()
    return prediction.v * high + (1 - prediction.v) * low


def small_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """Return log beta-tilde of the `posterior`, optimal for data at a point.

    Parameters
    ----------
    posterior, prediction
        See `learned_variance`; the prediction is not read.
    """
    return posterior.variance.log()


def large_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """Return log beta of the `posterior`, optimal for data N(0, I).

    Parameters
    ----------
    posterior, prediction
        See `learned_variance`; the prediction is not read.
    """
    return posterior.beta.log()


def ddpm(variance: LogVariance = learned_variance, draws: int = 1) -> Step:
    """Make the step of ancestral sampling, which also takes mean-form guidance: N evaluations.

    Mean-form guidance adds Sigma * shift to the mean (ADM, algorithm 1).

    Parameters
    ----------
    variance
        `learned_variance`, `small_variance`, `large_variance`, or a function like these.
    draws
        Normal draws added to the mean, from 1 to 100; 2 is a variant x_nxt = mean + sigma z +
        sigma z' of too much noise.

    Raises
    ------
    InputError
        If there is to be no draw.

    References
    ----------
    Ho et al. 2020; Dhariwal & Nichol 2021.
    """
    check_function("a variance", variance)
    draws = whole("draws", draws, 1, 100)

    def step(denoise, x, now, nxt, history, noise):
        prediction = history[-1].prediction
        posterior = Posterior.between(now, nxt)
        mean = posterior.from_x0 * prediction.x0 + posterior.from_x_t * x
        if nxt.clean and prediction.shift is None:
            return mean
        if nxt.clean:
            # beta-tilde is 0 here; its neighbour's stands in, as in the public code (which has it
            # in place of beta, too, where the variance is the large one).
            stand_in = (
                Posterior.between(history[-2].level, now).variance
                if len(history) > 1
                else posterior.beta
            )
            posterior = replace(posterior, variance=stand_in)
        log_variance = variance(posterior, prediction)
        if prediction.shift is not None:
            mean = mean + log_variance.exp() * prediction.shift
        if nxt.clean:
            return mean
        z = sum(noise() for _ in range(draws))
        return mean + (0.5 * log_variance).exp() * z

    return step


def _check_eta(eta: float) -> None:
    real("eta", eta, 0, 1)


def ddim(eta: float = 0.0) -> Step:
    """Make the step of DDIM: order 1 at `eta` = 0; N evaluations.

    Parameters
    ----------
    eta
        In [0, 1]: 0 is the Euler step of the probability flow, 1 DDPM's posterior.

    Raises
    ------
    InputError
        If eta is out of range.

    References
    ----------
    Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    _check_eta(eta)

    def step(denoise, x, now, nxt, history, noise):
        prediction = require_score_form(history[-1].prediction, "ddim")
        spread = eta**2 * Posterior.between(now, nxt).variance
        x = nxt.alpha * prediction.x0 + (nxt.sigma**2 - spread).sqrt() * prediction.eps
        return x + spread.sqrt() * noise() if spread > 0 else x

    return step


euler = ddim()
"""The Euler step in sigma / alpha, of k-diffusion and of EDM's algorithm 1 uncorrected: DDIM's."""


def euler_ancestral(eta: float = 1.0) -> Step:
    """Make the step of k-diffusion's Euler ancestral, which is DDIM's.

    Parameters
    ----------
    eta
        In [0, 1], DDIM's.
    """
    return ddim(eta)


def ddim_sigma_hat(denoise, x, now, nxt, history, noise):
    """Take the step of DDIM with the larger sigma-hat: x at `nxt`.

    sigma-hat^2 = 1 - abar_now / abar_nxt scales the noise alone; eps keeps the coefficient it has
    at eta = 1, as sigma_nxt^2 - sigma-hat^2 may be negative. So it is ddpm(large_variance). N
    evaluations. The arguments are those of every `Step`.

    References
    ----------
    Song et al. 2021 (DDIM), section 5.1.
    """
    require_score_form(history[-1].prediction, "ddim_sigma_hat")
    return ddpm(large_variance)(denoise, x, now, nxt, history, noise)


def noise_prediction_error(
    denoise: Denoise, x0: Tensor, eps: Tensor, grid: Sequence[Level]
) -> list[float]:
    """Estimate the mean square of eps - eps(x_t) at every noisy level of a grid.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`.
    x0, eps
        Data and the noise that they are noised with, both [B, ...].
    grid
        Levels; the clean one is left out.

    Returns
    -------
    list of float
        One a noisy level, in [0, 1] for an exact denoiser: the share of the noise's power that x_t
        does not give away.

    Raises
    ------
    InputError
        If there are no data, or not as many noises.
    """
    if x0.shape != eps.shape or not len(x0):
        raise InputError(
            f"one noise per image, at least one image: got {list(x0.shape)}, {list(eps.shape)}"
        )
    with torch.no_grad():
        levels = [level for level in grid if not level.clean]
        predictions = [fitted(denoise(level.noised(x0, eps), level), x0) for level in levels]
    return [float((eps - p.eps).double().square().mean()) for p in predictions]


def analytic_ddim(
    denoise: Denoise, x0: Tensor, eps: Tensor, grid: Sequence[Level], eta: float = 0.0
) -> Step:
    """Make the step of A-DDIM, DDIM with the optimal variance of Analytic-DPM: N evaluations.

    DDIM treats eps as known; given x_t it varies, and moves x_nxt by its own coefficient: that
    joins the variance. The paper has 1 - E eps(x_t)^2 for it; estimated here as the equal
    E (eps - eps(x_t))^2, whose sampling error does not swamp it where x_t is nearly noise, and
    which stays optimal for an imperfect denoiser (Bao et al. 2022b).

    Parameters
    ----------
    denoise
        The denoiser without guidance, evaluated once a level to estimate the variance.
    x0, eps
        Data and noise to estimate it on, both [B, ...].
    grid
        The grid that will be walked: the step is for its levels alone.
    eta
        In [0, 1], DDIM's.

    Raises
    ------
    InputError
        If eta is out of range, or data and noise do not match.

    References
    ----------
    Bao et al. 2022a, theorem 1; Bao et al. 2022b.
    """
    _check_eta(eta)
    times = [float(level.t) for level in grid if not level.clean]
    errors = dict(zip(times, noise_prediction_error(denoise, x0, eps, grid), strict=True))

    def step(denoise, x, now, nxt, history, noise):
        prediction = require_score_form(history[-1].prediction, "analytic_ddim")
        if nxt.clean:
            return prediction.x0
        if float(now.t) not in errors:
            raise InputError(
                f"analytic_ddim has no variance for t = {now.t:g}: build it with the grid it "
                f"will walk down"
            )
        spread = eta**2 * Posterior.between(now, nxt).variance
        direct = (nxt.sigma**2 - spread).sqrt()
        leverage = direct - nxt.alpha * now.sigma / now.alpha
        variance = spread + leverage**2 * errors[float(now.t)]
        return nxt.alpha * prediction.x0 + direct * prediction.eps + variance.sqrt() * noise()

    return step


def _noise_ratio(level: Level) -> float:
    return float(level.sigma / level.alpha)


def _at_noise_ratio(schedule: AnySchedule, ratio: float) -> Level:
    return schedule.at_log_snr(-2 * math.log(ratio))


def _renoised(y: Tensor, ratio: float, nxt: Level, z: Tensor) -> Tensor:
    """x at `nxt`, from y = x / alpha at the lower noise level `ratio` and independent noise."""
    added = math.sqrt(max(_noise_ratio(nxt) ** 2 - ratio**2, 0.0))
    return nxt.alpha * (y + added * z)


def dpm2_ancestral(schedule: AnySchedule, eta: float = 1.0) -> Step:
    """Make the step of k-diffusion's DPM2 to less noise, and fresh noise back up: 2N-1 evaluations.

    The split is DDIM's: of the variance of x / alpha at `nxt`, eta^2 times the posterior's is
    fresh noise. At eta = 1 the middle of the DPM2 step is `nxt` itself; at 0 this is DPM2.

    Parameters
    ----------
    schedule
        Source of the levels inside a step.
    eta
        In [0, 1].

    Raises
    ------
    InputError
        If eta is out of range.

    References
    ----------
    Crowson et al. 2022 (k-diffusion), `sample_dpm_2_ancestral`.
    """
    _check_eta(eta)
    check_schedule(schedule)

    def step(denoise, x, now, nxt, history, noise):
        present = require_score_form(history[-1].prediction, "dpm2_ancestral")
        if nxt.clean:
            return present.x0
        high, low = _noise_ratio(now), _noise_ratio(nxt)
        # low^2 less eta^2 of the posterior's variance, low^2 (1 - low^2 / high^2).
        down = low * math.sqrt(1 - eta**2 + (eta * low / high) ** 2)
        middle = _at_noise_ratio(schedule, math.sqrt(high * down))
        half = denoise(ddim_transfer(x, now, middle, present.eps), middle)
        y = x / now.alpha + (down - high) * require_score_form(half, "dpm2_ancestral").eps
        return _renoised(y, down, nxt, noise()) if eta else nxt.alpha * y

    return step


def karras(
    schedule: AnySchedule,
    gamma: float = math.sqrt(2) - 1,
    S_min: float = 0.05,
    S_max: float = 50.0,
    S_noise: float = 1.003,
) -> Step:
    """Make the step of EDM's stochastic sampler: 2N-1 evaluations.

    Heun down to a noise level (sigma / alpha) r, then noise of a std `S_noise` times as large as
    needed up to r (1 + gamma), that of `nxt`, where r is in [S_min, S_max]; elsewhere Heun. The
    paper writes the same moves in the other order, noise first: its grid holds the r, ours the
    raised levels.

    Parameters
    ----------
    schedule
        Source of the levels from which noise is added.
    gamma
        In [0, sqrt(2) - 1], what a level is raised by: the paper's min(S_churn / N, sqrt(2) - 1)
        on a grid of N steps, of which a step knows but its own ends.
    S_min, S_max
        Noise levels between which noise is added.
    S_noise
        Inflation of the noise that is added.

    Raises
    ------
    InputError
        If a number is out of range; of a step, if the schedule does not reach the noise level r.

    References
    ----------
    Karras et al. 2022, algorithm 2.
    """
    if not 0 <= real("gamma", gamma) <= math.sqrt(2) - 1:
        raise InputError(f"gamma must be in [0, sqrt(2) - 1], not {gamma}")
    check_schedule(schedule)
    real("S_noise", S_noise, 0)
    if not (isinstance(S_max, Real) and real("S_min", S_min, 0) <= S_max):
        raise InputError(f"expected S_min <= S_max, not {S_min}, {S_max}")

    def step(denoise, x, now, nxt, history, noise):
        require_score_form(history[-1].prediction, "karras")
        down = math.inf if nxt.clean else _noise_ratio(nxt) / (1 + gamma)
        if not gamma or not S_min <= down <= S_max:
            return heun(denoise, x, now, nxt, history, noise)
        try:
            lower = _at_noise_ratio(schedule, down)
        except ScheduleError as error:
            raise InputError(
                f"the schedule does not reach the noise level {down:g} from which karras adds "
                f"noise up to t = {nxt.t:g}: raise S_min above it, and Heun takes that step"
            ) from error
        x = heun(denoise, x, now, lower, history, noise)
        return _renoised(x / lower.alpha, down, nxt, S_noise * noise())

    return step
