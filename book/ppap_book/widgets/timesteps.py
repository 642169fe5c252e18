"""The timestep-range explorer: views of models at its ends, images guided within it."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppap_book import plots
from ppap_book.errors import StudyError
from ppap_book.measures import noisy_accuracy
from ppap_book.widgets.explorer import Explorer
from ppap_lib.diffusion.levels import Level
from ppap_lib.guidance import Model, model_at

TOP = 2  # classes named below a picture


@dataclass(frozen=True, eq=False)
class ModelView:
    """Prediction of a model on one noisy image.

    `log_p` [K] over the classes; `attention` [H, W], not negative, where it looked, if known.
    """

    log_p: Tensor
    attention: Tensor | None = None

    @property
    def entropy(self) -> float:
        """In nats, at most log K."""
        return float(noisy_accuracy.entropy(self.log_p[None]))

    def top(self, classes: Sequence[str], count: int = TOP) -> list[str]:
        """The likeliest classes: ["coat 0.62", "shirt 0.20"]."""
        best = self.log_p.exp().topk(count)
        return [f"{classes[k]} {p:.2f}" for p, k in zip(*map(Tensor.tolist, best), strict=True)]


def view_of(model: Model, x_t: Tensor, level: Level, attention: Tensor | None = None) -> ModelView:
    """The `ModelView` of one noisy image [C, H, W] by a clean or a noise-aware classifier."""
    with torch.no_grad():
        log_p = model_at(model, level)(x_t[None].float())[0].log_softmax(0)
    return ModelView(log_p, attention)


def _show(ax: Axes, image: Tensor, view: ModelView, classes: Sequence[str]) -> None:
    """The image, where the model looked at it, and below what the model takes it for."""
    if view.attention is None:
        plots.picture(ax, image)
    else:
        plots.overlay(ax, image, view.attention)
    words = [*view.top(classes), f"entropy {view.entropy:.2f}"]
    ax.set_xlabel("\n".join(words), fontsize="x-small", labelpad=2)


def _grid(figure: Figure, columns: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two blocks of axes, two rows each, side by side: laid out by hand, for speed."""
    left, right, gap = 0.035, 0.995, 0.055
    unit = (right - left - gap) / sum(columns)
    middle = left + columns[0] * unit
    spots = {"top": 0.84, "bottom": 0.17, "wspace": 0.06, "hspace": 0.55}
    blocks = (
        figure.add_gridspec(2, columns[0], left=left, right=middle, **spots),
        figure.add_gridspec(2, columns[1], left=middle + gap, right=right, **spots),
    )
    figure.text((left + middle) / 2, 0.995, "what the models see", ha="center", va="top")
    figure.text((middle + gap + right) / 2, 0.995, "what guidance makes", ha="center", va="top")
    return tuple(block.subplots(squeeze=False) for block in blocks)


def timestep_explorer(
    noised: Callable[[float], Tensor],
    readings: Callable[[float], Mapping[str, ModelView]],
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
        raise StudyError(f"a range needs two points at least, not {shown or points}")

    def draw(begin: int, end: int) -> Figure:
        names = list(readings(begin))
        figure = Figure(figsize=(8.4, 3.7), layout="none")
        seen, images = _grid(figure, (1 + len(names), len(plain)))
        for t, row in zip((begin, end - 1), seen, strict=True):
            image, read = noised(t), readings(t)
            plots.picture(row[0], image).set_ylabel(f"$t$ = {t}")
            for ax, name in zip(row[1:], names, strict=True):
                _show(ax, image, read[name], classes)
        for ax, name in zip(seen[0, 1:], names, strict=True):
            ax.set_title(textwrap.fill(name, 12), fontsize="x-small", pad=3)
        plots.pictures(images[0], plain, titles)
        plots.pictures(images[1], samples(begin, end))
        images[0, 0].set_ylabel("no guidance")
        images[1, 0].set_ylabel("in the range")
        for ax in images[0]:
            ax.title.set_fontsize("small")
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
