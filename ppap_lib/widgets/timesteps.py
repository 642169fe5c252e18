"""The timestep-range explorer: what models see at its ends, what guidance makes within it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppap_lib import plots, uncertainty
from ppap_lib.guidance import Model, NoiseAware
from ppap_lib.schedule import Level
from ppap_lib.widgets.explorer import Explorer, WidgetError

TOP = 2  # classes named below a picture


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model makes of one noisy image.

    `log_p` [K] over the classes; `attention` [H, W] in [0, 1], where it looked, if known.
    """

    log_p: Tensor
    attention: Tensor | None = None

    @property
    def entropy(self) -> float:
        """In nats, at most log K."""
        return float(uncertainty.entropy(self.log_p[None]))

    def top(self, classes: Sequence[str], count: int = TOP) -> list[str]:
        """The likeliest classes: ["coat 0.62", "shirt 0.20"]."""
        best = self.log_p.exp().topk(count)
        return [f"{classes[k]} {p:.2f}" for p, k in zip(*map(Tensor.tolist, best), strict=True)]


def reading(model: Model, x_t: Tensor, level: Level, attention: Tensor | None = None) -> Reading:
    """The `Reading` of one noisy image [C, H, W] by a clean or a noise-aware classifier."""
    read = model.at(level) if isinstance(model, NoiseAware) else model
    with torch.no_grad():
        log_p = read(x_t[None].float())[0].log_softmax(0)
    return Reading(log_p, attention)


def _overlay(ax: Axes, image: Tensor, found: Reading, classes: Sequence[str]) -> None:
    """The image under where the model looked, and below it what the model takes it for."""
    plots.picture(ax, image)
    if found.attention is not None:
        height, width = image.shape[1:]
        ax.imshow(
            found.attention.numpy(),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.55,
        )
    ax.set_xlabel(
        "\n".join([*found.top(classes), f"entropy {found.entropy:.2f}"]), fontsize="x-small"
    )


def timestep_explorer(
    noised: Callable[[float], Tensor],
    readings: Callable[[float], Mapping[str, Reading]],
    samples: Callable[[int, int], Tensor],
    plain: Tensor,
    points: Sequence[int],
    classes: Sequence[str],
    titles: Sequence[str] = (),
    page: Sequence[int] | None = None,
) -> Explorer:
    """An explorer of ranges [begin, end) of timesteps, `points` being where they may end.

    `noised(t)` is the image [C, H, W] at timestep t and `readings(t)` what each model, by name,
    makes of it: shown at the first and the last timestep in the range. `samples(begin, end)`
    [k, C, H, W] are the images made when guidance acts in the range only, `plain` those without
    guidance from the same noise, `titles` [k] what they were steered to. With `page`, the built
    page has frames for these points only.
    """
    points, shown = sorted(set(points)), sorted(set(points if page is None else page))
    if len(shown) < 2 or len(points) < 2:
        raise WidgetError(f"a range needs two points at least, not {shown or points}")

    def draw(begin: int, end: int) -> Figure:
        figure = Figure(figsize=(9.4, 4.2), layout="constrained")
        ends = (begin, end - 1)
        names = list(readings(begin))
        seen, made = figure.subfigures(1, 2, width_ratios=(1 + len(names), len(plain)))
        seen.suptitle("what the models see", fontsize="medium")
        made.suptitle("what guidance makes", fontsize="medium")
        rows = seen.subplots(2, 1 + len(names), squeeze=False)
        for t, row in zip(ends, rows, strict=True):
            image = noised(t)
            plots.picture(row[0], image).set_ylabel(f"$t$ = {t}")
            for ax, name in zip(row[1:], names, strict=True):
                _overlay(ax, image, readings(t)[name], classes)
        for ax, name in zip(rows[0, 1:], names, strict=True):
            ax.set_title(name, fontsize="small")
        without, within = made.subplots(2, len(plain), squeeze=False)
        plots.pictures(without, plain, titles)
        plots.pictures(within, samples(begin, end))
        without[0].set_ylabel("no guidance")
        within[0].set_ylabel("in the range")
        return figure

    def describe(begin: int, end: int) -> str:
        seen = "; ".join(
            f"at {t} "
            + ", ".join(f"{name} sees {r.top(classes, 1)[0]}" for name, r in readings(t).items())
            for t in (begin, end - 1)
        )
        return f"Guidance acts at timesteps {begin} to {end - 1}. Of the image noised {seen}."

    return Explorer(
        draw,
        describe,
        start={"begin": shown[0], "end": shown[-1]},
        labels={"begin": "from timestep", "end": "to below"},
        valid=lambda begin, end: begin < end,
        refusal="The range is empty: it must begin below its end.",
        page={"begin": shown[:-1], "end": shown[1:]},
        begin=points[:-1],
        end=points[1:],
    )
