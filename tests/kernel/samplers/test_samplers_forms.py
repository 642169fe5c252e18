"""The closed forms that docstrings state, written out, on a grid that is even in nothing."""

import math

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.schedules import ContinuousSchedule
from ppap_lib.samplers import dpmpp_multistep, heun, sample, unipc

SCHEDULE = ContinuousSchedule()
MIXTURE = Mixture(torch.tensor([[-1.0], [0.2], [1.1]]), [0.3, 0.2, 0.25], [0.3, 0.3, 0.4])
GRID = SCHEDULE.grid([1000, 830, 700, 410, 300, 60])
X_T = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]


def lam(level):
    return float(level.log_snr) / 2


def psi(h, count):
    values = [1 - math.exp(-h)]
    for k in range(1, count):
        values.append(1 - k / h * values[-1])
    return values


def closed(x, now, nxt, total):
    """sigma_nxt / sigma_now x + alpha_nxt times the sum that the forms differ in."""
    return nxt.sigma / now.sigma * x + nxt.alpha * total


def multistep(order, halved):
    """DPM-Solver++(1M, 2M, 3M), as its docstring says it."""
    x, past = X_T, []
    for now, nxt in zip(GRID, GRID[1:], strict=False):
        past = [(lam(now), MIXTURE.denoise(x, now).x0), *past][:order]
        h, m = lam(nxt) - lam(now), [x0 for _, x0 in past]
        widths = [a[0] - b[0] for a, b in zip(past, past[1:], strict=False)]
        p = psi(h, 3)
        if len(m) == 1:
            total = p[0] * m[0]
        elif len(m) == 2:
            total = p[0] * (m[0] + (m[0] - m[1]) / (2 * widths[0] / h))
        else:
            r, s = (width / h for width in widths)
            d, e = (m[0] - m[1]) / r, (m[1] - m[2]) / s
            q = (d - e) / (r + s)
            total = p[0] * m[0] + p[1] * (d + r * q) + p[2] * q / (2 if halved else 1)
        x = closed(x, now, nxt, total)
    return x


def unified(order, variant):
    """UniPC, as its docstring says it: sums over the coefficients of polynomials in s."""

    def total(now, nxt, points):
        h = lam(nxt) - lam(now)
        nodes = torch.tensor([(at - lam(now)) / h for at, _ in points], dtype=torch.float64)
        coefficients = torch.linalg.solve(
            torch.vander(nodes, increasing=True), torch.cat([x0.T for _, x0 in points])
        )
        weights = psi(h, len(points))
        if len(points) == 2:
            weights[1] = h / 2 if variant == "bh1" else weights[0] / 2
        return sum(w * c for w, c in zip(weights, coefficients, strict=True))[:, None]

    x, past, before = X_T, [], None
    for now, nxt in zip(GRID, GRID[1:], strict=False):
        fresh = (lam(now), MIXTURE.denoise(x, now).x0)
        if past:
            points = past[-order:]
            x = x + now.alpha * (total(before, now, [*points, fresh]) - total(before, now, points))
        past, before = [*past, fresh], now
        x = closed(x, now, nxt, total(now, nxt, past[-order:]))
    return x


@pytest.mark.parametrize(("order", "halved"), [(1, False), (2, False), (3, False), (3, True)])
def test_dpm_solver_pp(order, halved):
    end = sample(MIXTURE.denoise, X_T, GRID, dpmpp_multistep(order, halved))
    torch.testing.assert_close(end, multistep(order, halved), rtol=0, atol=1e-11)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, variant):
    end = sample(MIXTURE.denoise, X_T, GRID, unipc(order, variant))
    torch.testing.assert_close(end, unified(order, variant), rtol=0, atol=1e-11)


def test_heun():
    y = X_T / GRID[0].alpha
    for now, nxt in zip(GRID, GRID[1:], strict=False):
        width = nxt.sigma / nxt.alpha - now.sigma / now.alpha
        eps = MIXTURE.denoise(now.alpha * y, now).eps
        y = y + width * (eps + MIXTURE.denoise(nxt.alpha * (y + width * eps), nxt).eps) / 2
    end = sample(MIXTURE.denoise, X_T, GRID, heun)
    torch.testing.assert_close(end, GRID[-1].alpha * y, rtol=0, atol=1e-12)
