"""PF: the probability flow by adaptive Runge-Kutta, every image with step sizes of its own."""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction
from ppap_lib.diffusion.levels import Level, per_image
from ppap_lib.diffusion.schedules import AnySchedule, check_schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import real, whole
from ppap_lib.samplers.loop import (
    CountingDenoiser,
    State,
    Step,
    check_x,
    ode_step,
    require_score_form,
)
from ppap_lib.samplers.quadrature import weighted_sum

# Dormand & Prince 1980: each stage's place in the step and shares of the earlier slopes. The last
# stage is the fifth-order solution, so its slope starts the next step.
_PLACES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FOURTH = (5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(a - b for a, b in zip((*_STAGES[-1], 0), _FOURTH, strict=True))


def probability_flow(
    denoise: Denoise,
    x_T: Tensor,
    now: Level,
    nxt: Level,
    schedule: AnySchedule,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    limit: int = 1000,
) -> Iterator[State]:
    """Follow the probability flow within tolerances, and yield the state after every round.

    A round tries one step of every sample, six evaluations of the batch. A sample keeps its step
    if the root mean square of error / (atol + rtol |x|), x in its own scaling and the larger of the
    step's ends, is below 1, and repeats it smaller if not. Samples that have arrived wait,
    unchanged. Follows d(x / alpha) = eps d(sigma / alpha) in log(sigma / alpha); to end clean,
    evaluate the last state once more and take its x0.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`, guided in score form or not.
    x_T
        [B, ...], at the level `now`.
    now, nxt
        Levels from noisy to less noisy, not clean.
    schedule
        Source of the levels between the two.
    rtol, atol
        Relative and absolute tolerance, positive.
    limit
        Rounds, at most.

    Yields
    ------
    State
        One after each round; its level has one entry for each sample.

    Raises
    ------
    InputError
        If an argument is out of range, a prediction is not finite or shifted by mean-form
        guidance, or samples have not arrived after `limit` rounds.

    References
    ----------
    Dormand & Prince 1980; Song et al. 2021 (score SDE), section 4.3.
    """
    check_x(x_T)
    check_schedule(schedule)
    limit = whole("limit", limit, 1)
    if now.clean or nxt.clean or not bool(now.log_snr < nxt.log_snr):
        raise InputError("probability_flow leads from a noisy level to a less noisy one, > 0")
    if real("rtol", rtol) <= 0 or real("atol", atol) <= 0:
        raise InputError(f"tolerances must be positive, not rtol = {rtol}, atol = {atol}")
    counting, count = CountingDenoiser(denoise), len(x_T)

    def slope(y: Tensor, place: Tensor) -> tuple[Tensor, Prediction]:
        level = schedule.at_log_snr(-2 * place)
        with torch.no_grad():
            prediction = counting(per_image(level.alpha, y) * y, level)
        require_score_form(prediction, "probability_flow")
        return per_image(place.exp(), y) * prediction.eps, prediction

    # y = x / alpha; places are log(sigma / alpha) [B] and fall, so widths are negative.
    y, place, end = (x_T / now.alpha, *(-0.5 * at.log_snr.expand(count) for at in (now, nxt)))
    width = (end - place) / 20
    first, prediction = slope(y, place)
    for index in range(1, limit + 1):
        last = width <= end - place  # also where the sample has arrived: its step is zero
        width = torch.where(last, end - place, width)
        slopes = [first]
        for share, shares in zip(_PLACES[1:], _STAGES[1:], strict=True):
            trial = y + per_image(width, y) * weighted_sum(shares, slopes)
            last_slope, ahead = slope(trial, place + share * width)
            slopes.append(last_slope)
        counting.check(index - 1, trial, now)
        old, new = (
            per_image(schedule.at_log_snr(-2 * at).alpha, y) for at in (place, place + width)
        )
        size = torch.maximum(old * y.abs(), new * trial.abs())
        error = new * per_image(width, y) * weighted_sum(_ERROR, slopes) / (atol + rtol * size)
        ratio = error.flatten(1).square().mean(1).sqrt().double().cpu()

        start, accepted = prediction, ratio <= 1
        keep = per_image(accepted, y).bool()
        y, first = torch.where(keep, trial, y), torch.where(keep, last_slope, first)
        prediction = Prediction(
            torch.where(keep, ahead.x0, prediction.x0), torch.where(keep, ahead.eps, prediction.eps)
        )
        place = torch.where(accepted, torch.where(last, end, place + width), place)
        # The error is of fifth order in the width; 0.9 and the bounds keep the control calm.
        width = width * (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 5)
        level = schedule.at_log_snr(-2 * place)
        x = per_image(level.alpha, y) * y
        yield State(index, level, x, start, counting.evaluations, counting.gradients)
        if bool((place == end).all()):
            return
    raise InputError(
        f"{int((place != end).sum())} of {count} images have not arrived after {limit} rounds: "
        f"raise the tolerances or the limit"
    )


def adaptive(schedule: AnySchedule, rtol: float = 1e-3, atol: float = 1e-3) -> Step:
    """Make a step of `probability_flow`, however long: a grid needs its ends alone, and clean.

    The tolerances decide the evaluations: as many as the batch's hardest sample needs, and one
    more, for the flow evaluates its start again.

    Parameters
    ----------
    schedule
        Source of the levels between those of the grid.
    rtol, atol
        Relative and absolute tolerance, positive.
    """

    @ode_step("adaptive")
    def step(denoise, x, now, nxt, history, noise):
        states = probability_flow(denoise, x, now, nxt, schedule, rtol, atol)
        return deque(states, maxlen=1)[0].x

    return step
