"""Draw noising.png, the README's picture: `.venv/bin/python book/figures/noising.py`.

One photograph and one draw of noise under two schedules, with the intervals that experts own.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from skimage import data

from ppap_lib import images, plots
from ppap_lib.schedule import Intervals, Schedule
from ppap_lib.seeds import Noise

TIMES = (0, 100, 300, 500, 700, 900)
SIZE = 128


def main() -> None:
    plots.style()
    cut = Intervals(1000, 5)
    pixels = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None]
    x0 = images.resize(images.from_bytes(pixels), SIZE)
    eps = Noise([0], x0.shape[1:], dtype=x0.dtype)()

    figure = Figure(figsize=(9, 3.5), layout="constrained", dpi=90)
    axes = figure.subplots(2, len(TIMES))
    named = {"linear": Schedule.linear(), "cosine": Schedule.cosine()}
    for row, (name, schedule) in zip(axes, named.items(), strict=True):
        noised = torch.cat([schedule.at(t).noised(x0, eps) for t in TIMES])
        titles = [f"$t$ = {t}\nexpert {cut.of(t) + 1}" for t in TIMES] if name == "linear" else ()
        plots.pictures(row, noised, titles)
        row[0].set_ylabel(name)
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, metadata={"Software": None})

    from PIL import Image

    # 128 colours are enough for noise, and a fifth of the bytes.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
