"""Explorers: a drawing with sliders that is live in JupyterLab and plays in the built page.

A page without a kernel cannot run Python and, offline, cannot load a widget manager. So the
object that a cell displays carries two views: ipywidgets for a front end with a kernel, and HTML
with every frame drawn beforehand, plain `<input type=range>` sliders, and a few lines of script.
"""

import base64
import hashlib
import html
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from ppap_book.errors import StudyError

FRAME_LIMIT = 40
"""More frames than this make a page heavy to load."""


def encode(figure: Figure, dpi: int = 90) -> bytes:
    """A figure as WebP: noisy photographs take a fifth of what PNG needs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 70})
    return buffer.getvalue()


class Explorer(ipw.VBox):
    """`draw(**values) -> Figure` with one slider per axis, a list of values by name.

    `describe(**values)` says in words what is seen: the live status line and the picture's
    alternative text. `valid(**values)` says which combinations exist (a start before its end);
    others leave the picture as it is and say `refusal`. `labels` are the sliders' printed names.
    With a single axis there is a play button too.

    `page` thins axes for the built page, {name: [values]}: the live sliders keep all their values.

    Raises `StudyError` for an empty axis, a start value off its axis or not valid, and for
    more than `FRAME_LIMIT` frames.
    """

    def __init__(
        self,
        draw: Callable[..., Figure],
        describe: Callable[..., str],
        *,
        start: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        valid: Callable[..., bool] = lambda **values: True,
        refusal: str = "not possible",
        page: Mapping[str, Sequence[Any]] | None = None,
        **axes: Sequence[Any],
    ):
        self._draw, self._describe, self._valid, self._refusal = draw, describe, valid, refusal
        self._axes = {name: list(values) for name, values in axes.items()}
        self._page = self._axes | {name: list(values) for name, values in (page or {}).items()}
        self._labels = {name: (labels or {}).get(name, name) for name in axes}
        start = {name: values[0] for name, values in self._page.items() if values} | dict(
            start or {}
        )
        self._check(start)
        self._start = start
        self.sliders = {
            name: ipw.SelectionSlider(
                options=values,
                value=start[name],
                description=self._labels[name],
                continuous_update=False,
                style={"description_width": "initial"},
                layout=ipw.Layout(width="min(100%, 32em)"),
            )
            for name, values in self._axes.items()
        }
        self.status = ipw.HTML()  # a `Label` cuts what does not fit on one line
        self.image = ipw.Image(format="webp", layout=ipw.Layout(max_width="100%"))
        controls = list(self.sliders.values())
        if len(controls) == 1:
            controls.append(self._player(controls[0]))
        super().__init__([*controls, self.status, self.image])
        for slider in self.sliders.values():
            slider.observe(self._refresh, "value")
        self._refresh()

    def _check(self, start: Mapping[str, Any]) -> None:
        if not self._axes:
            raise StudyError("an explorer needs at least one axis, name=[values]")
        for given, names in (("page", self._page), ("start", start)):
            if unknown := names.keys() - self._axes.keys():
                raise StudyError(f"{given} names {', '.join(sorted(unknown))}, which is no axis")
        for name, values in self._page.items():
            if extra := [value for value in values if value not in self._axes[name]]:
                raise StudyError(f"page gives axis {name!r} the values {extra}, which it lacks")
            if not values or start[name] not in values:
                raise StudyError(f"axis {name!r} has the values {values}, not {start.get(name)!r}")
        if not self._valid(**start):
            raise StudyError(f"the start {dict(start)} is not valid: {self._refusal}")
        if (count := sum(1 for _ in self._combinations())) > FRAME_LIMIT:
            raise StudyError(
                f"{count} frames are too many for a page, at most {FRAME_LIMIT}: thin the axes"
            )

    @staticmethod
    def _player(slider: ipw.SelectionSlider) -> ipw.Play:
        player = ipw.Play(
            min=0, max=len(slider.options) - 1, value=slider.index, interval=600, repeat=False
        )
        ipw.link((player, "value"), (slider, "index"))
        return player

    @property
    def values(self) -> dict[str, Any]:
        """The sliders' values by name."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def _refresh(self, _change: object = None) -> None:
        values = self.values
        if self._valid(**values):
            self._say(self._describe(**values))
            self.image.value = encode(self._draw(**values))
        else:
            self._say(self._refusal)

    def _say(self, words: str) -> None:
        self.status.value = html.escape(words, quote=False)

    def _combinations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The page's valid ones: (slider positions as "i,j", values by name)."""
        for places in itertools.product(*(range(len(v)) for v in self._page.values())):
            values = {n: v[i] for (n, v), i in zip(self._page.items(), places, strict=True)}
            if self._valid(**values):
                yield ",".join(map(str, places)), values

    def static_html(self) -> str:
        """The page's view: all frames, no kernel, no network; the same bytes for the same frames.

        Without script the frame is shown where the sliders stand, or else the start frame.
        """
        frames = {
            key: {
                "src": "data:image/webp;base64,"
                + base64.b64encode(encode(self._draw(**values))).decode(),
                "text": self._describe(**values),
            }
            for key, values in self._combinations()
        }
        shown = all(value in self._page[name] for name, value in self.values.items())
        now = self.values if shown and self._valid(**self.values) else self._start
        places = {name: values.index(now[name]) for name, values in self._page.items()}
        frame = frames[",".join(map(str, places.values()))]
        data = json.dumps({"frames": frames, "refusal": self._refusal}).replace("<", "\\u003c")
        sliders = "".join(
            _SLIDER.format(
                label=html.escape(self._labels[name]),
                last=len(values) - 1,
                index=places[name],
                names=html.escape(json.dumps([str(value) for value in values])),
            )
            for name, values in self._page.items()
        )
        return _PAGE.format(
            id="explorer-" + hashlib.sha256(data.encode()).hexdigest()[:10],
            label=html.escape("Explorer: " + ", ".join(self._labels.values())),
            sliders=sliders,
            play=_PLAY if len(self._axes) == 1 else "",
            text=html.escape(frame["text"]),
            src=frame["src"],
            data=data,
            style=_STYLE,
            script=_SCRIPT,
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/html": self.static_html()}


_SLIDER = """<label><span>{label}</span>
<input type="range" min="0" max="{last}" step="1" value="{index}" data-names="{names}">
<b aria-hidden="true"></b></label>
"""

_PLAY = '<button type="button" aria-pressed="false">Play</button>'

_PAGE = """<div class="ppap-explorer" id="{id}" role="group" aria-label="{label}">
<style>{style}</style>
<div class="controls">{sliders}{play}</div>
<output aria-live="polite">{text}</output>
<img alt="{text}" src="{src}">
<script type="application/json">{data}</script>
<script>{script}</script>
</div>"""

# The theme paints HTML outputs light in its dark mode (it expects data frames there): undo it
# for explorers, so that their text follows the page.
_STYLE = """
.cell_output .text_html:has(> .ppap-explorer) {
  background: none !important; color: inherit !important; padding: 0 }
.ppap-explorer { color: var(--pst-color-text-base, inherit); text-align: left }
.ppap-explorer .controls { display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; align-items: center }
.ppap-explorer label { display: flex; gap: .6rem; align-items: center; flex: 1 1 18rem; margin: 0 }
.ppap-explorer input { flex: 1; min-width: 6rem; min-height: 1.5rem;
  accent-color: var(--pst-color-primary, #0173b2) }
.ppap-explorer b { min-width: 3.5em; font-variant-numeric: tabular-nums }
.ppap-explorer button { min-width: 5em; min-height: 2rem; font: inherit; color: inherit;
  background: none; border: 1px solid currentColor; border-radius: .3rem; cursor: pointer }
.ppap-explorer :is(input, button):focus-visible { outline: 2px solid currentColor;
  outline-offset: 2px }
.ppap-explorer output { display: block; margin: .5rem 0; min-height: 1.5em }
.ppap-explorer img { max-width: 100%; height: auto }
"""

_SCRIPT = """
(() => {
  const root = document.currentScript.closest(".ppap-explorer");
  const {frames, refusal} = JSON.parse(
    root.querySelector('script[type="application/json"]').textContent);
  const inputs = [...root.querySelectorAll("input")];
  const image = root.querySelector("img"), words = root.querySelector("output");
  const show = () => {
    for (const input of inputs) {
      const name = JSON.parse(input.dataset.names)[input.value];
      input.setAttribute("aria-valuetext", name);
      input.nextElementSibling.textContent = name;
    }
    const frame = frames[inputs.map(input => input.value).join(",")];
    words.textContent = frame ? frame.text : refusal;
    if (frame) { image.src = frame.src; image.alt = frame.text; }
  };
  for (const input of inputs) input.addEventListener("input", show);
  show();
  const button = root.querySelector("button"), slider = inputs[0];
  if (!button) return;
  let timer = 0;
  const stop = () => {
    clearInterval(timer); timer = 0;
    button.textContent = "Play"; button.setAttribute("aria-pressed", "false");
  };
  const step = () => {
    if (slider.value === slider.max) return stop();
    slider.value = +slider.value + 1; show();
  };
  slider.addEventListener("input", stop);
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) { slider.value = 0; show(); }
    button.textContent = "Pause"; button.setAttribute("aria-pressed", "true");
    timer = setInterval(step, 600);
  });
})();
"""
