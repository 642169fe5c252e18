"""The guidance explorer: one class, one scale, one method, beside no guidance at all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ppap_book import plots
from ppap_book.widgets.explorer import Explorer


def guidance_explorer(
    samples: Callable[[str, float, str], Tensor],
    plain: Callable[[str], Tensor],
    verdict: Callable[[str, float, str], str],
    *,
    classes: Sequence[str],
    scales: Sequence[float],
    methods: Mapping[str, str],
    start: Mapping[str, Any] | None = None,
    page: Mapping[str, Sequence[Any]] | None = None,
) -> Explorer:
    """An explorer of guided images, by class, scale and method (`methods`: name -> title).

    `samples(cls, scale, method)` [k, C, H, W] are steered to the class, `plain(cls)` the same
    seeds without guidance; `verdict` says in words how the guided ones were judged. `start` and
    `page` are `Explorer`'s, with the axes "cls", "scale" and "method" (by its title).
    """
    names = {title: name for name, title in methods.items()}

    def draw(cls: str, scale: float, method: str) -> Figure:
        without, steered = plain(cls), samples(cls, scale, names[method])
        figure, axes = plots.sheet(len(steered), 2, side=1.45)
        plots.pictures(axes[0], without)
        plots.pictures(axes[1], steered)
        axes[0, 0].set_ylabel("no guidance")
        axes[1, 0].set_ylabel(f"{method}\nscale {scale:g}")
        return figure

    def describe(cls: str, scale: float, method: str) -> str:
        return f"{method}, scale {scale:g}, towards {cls}. {verdict(cls, scale, names[method])}"

    return Explorer(
        draw,
        describe,
        labels={"cls": "class", "scale": "guidance scale", "method": "method"},
        start=start,
        page=page,
        cls=list(classes),
        scale=list(scales),
        method=list(names),
    )
