"""Plots: axes in, axes out, and one style for all pages (colour-blind safe).

Only drawing happens here; numbers are computed by the library and handed in.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_lib.data.pixels import to_unit, with_channels
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.experts.intervals import Intervals

QUANTITIES = {
    "beta": r"$\beta_t$",
    "alpha": r"signal scale $\alpha_t$",
    "sigma": r"noise scale $\sigma_t$",
    "abar": r"$\bar\alpha_t$",
    "log_snr": r"log-SNR, $\log(\alpha_t^2/\sigma_t^2)$",
}
"""Quantities that `schedules` draws, with their axis labels."""

DASHES = ("-", "--", "-.", ":")
"""Line styles beside the colours: lines stay apart in print and where they lie on each other."""


def style() -> None:
    """Set the book's look for every later figure: seaborn's colour-blind palette, fine grid."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette="colorblind",
        rc={
            "figure.dpi": 144,
            "figure.constrained_layout.use": True,
            "axes.titlesize": "medium",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
        },
    )


def plain_log(axis: Axis) -> Axis:
    """A logarithmic axis labelled at 1 and 3 times the powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    return axis


def schedules(ax: Axes, named: Mapping[str, Schedule], quantity: str = "log_snr") -> Axes:
    """One line per schedule of `quantity` (a key of `QUANTITIES`) against the timestep."""
    if quantity not in QUANTITIES:
        raise StudyError(f"unknown quantity {quantity!r}: there are {', '.join(QUANTITIES)}")
    for (label, schedule), dashes in zip(named.items(), itertools.cycle(DASHES)):
        values = {
            "beta": schedule.betas,
            "abar": schedule.alphas_cumprod,
            "alpha": schedule.alphas_cumprod.sqrt(),
            "sigma": (1 - schedule.alphas_cumprod).sqrt(),
            "log_snr": schedule.log_snr,
        }[quantity]
        ax.plot(range(schedule.T), values.numpy(), dashes, label=label)
    ax.set(xlabel="timestep $t$", ylabel=QUANTITIES[quantity])
    ax.margins(x=0)
    return ax


def intervals(ax: Axes, cut: Intervals, names: bool = True) -> Axes:
    """Shade the intervals along a timestep axis, in alternation, numbered from 1 on top."""
    for index in range(len(cut)):
        left, right = cut.edges[index], cut.edges[index + 1]
        if index % 2:
            ax.axvspan(left, right, color="0.5", alpha=0.12, lw=0, zorder=0)
        if names:
            ax.annotate(
                str(index + 1),
                ((left + right) / 2, 1.0),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color="0.35",
                fontsize="small",
            )
    return ax


def picture(ax: Axes, image: Tensor, title: str = "") -> Axes:
    """One image [C, H, W] in [-1, 1], without ticks; what lies outside is clamped."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise StudyError(f"a picture is [1 or 3, H, W], not {list(image.shape)}")
    array = to_unit(image.detach().float().cpu()).permute(1, 2, 0).numpy()
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if image.shape[0] == 1 else {}
    ax.imshow(array.squeeze(-1) if grey else array, interpolation="nearest", **grey)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    if title:
        ax.set_title(title)
    return ax


def pictures(axes: Sequence[Axes], images: Tensor, titles: Sequence[str] = ()) -> Sequence[Axes]:
    """Images [B, C, H, W] in [-1, 1], one per axis."""
    flat = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(flat) != len(images) or (titles and len(titles) != len(flat)):
        raise StudyError(f"{len(flat)} axes for {len(images)} images and {len(titles)} titles")
    for i, (ax, image) in enumerate(zip(flat, images, strict=True)):
        picture(ax, image, titles[i] if titles else "")
    return axes


def comparison(
    axes: np.ndarray,
    named: Mapping[str, Tensor],
    right: Mapping[str, Sequence[int]],
    columns: Sequence[str],
) -> np.ndarray:
    """A row of images [B, C, H, W] per name on axes [names, B], ticked where they are `right`.

    Words common to all rows, such as the wanted class, stand above the `columns`.
    """
    if axes.shape != (len(named), len(columns)) or named.keys() != right.keys():
        raise StudyError(
            f"axes {list(axes.shape)} for {len(named)} rows of {len(columns)} images, and "
            f"verdicts for {', '.join(right)}"
        )
    for i, (name, images) in enumerate(named.items()):
        pictures(axes[i], images, columns if i == 0 else ())
        for ax, hit in zip(axes[i], right[name], strict=True):
            ax.set_xlabel("✓" if hit else "", labelpad=0, color="C2")
        axes[i, 0].set_ylabel(
            name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize="small"
        )
    return axes


def sheet(columns: int, rows: int = 1, side: float = 1.6) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` square axes for pictures, outside pyplot's registry."""
    figure = Figure(figsize=(columns * side, rows * (side + 0.25)), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def overlay(ax: Axes, image: Tensor, attention: Tensor, title: str = "") -> Axes:
    """One image [C, H, W] in [-1, 1] in grey, and over it a map [H, W] >= 0 by its own maximum.

    Where the map is zero the image shows through; a map that is zero everywhere leaves it bare.
    """
    if attention.shape != image.shape[-2:]:
        raise StudyError(f"a map {list(attention.shape)} over an image {list(image.shape)}")
    picture(ax, with_channels(image[None], 1)[0], title)
    share = (attention / attention.max().clamp(min=1e-30)).detach().cpu().numpy()
    ax.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * share**0.5)
    return ax


def matrix(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    digits: int = 2,
    framed: Sequence[tuple[int, int]] = (),
    cmap: str = "crest",
) -> Axes:
    """A table of numbers as colours, with the numbers in it; the cells `framed` have an outline."""
    values = np.asarray(values)
    if values.shape != (len(rows), len(columns)):
        raise StudyError(f"{values.shape} numbers for {len(rows)} rows, {len(columns)} columns")
    shown = {"annot": True, "fmt": f".{digits}f", "annot_kws": {"fontsize": "small"}}
    sns.heatmap(values, ax=ax, cmap=cmap, cbar=False, linewidths=0.5, **shown)
    for row, column in framed:
        outline = {"fill": False, "edgecolor": "black", "lw": 2, "clip_on": False, "zorder": 3}
        ax.add_patch(Rectangle((column, row), 1, 1, **outline))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0)
    ax.tick_params(length=0)
    return ax
