"""Draw story.png, the README's picture: `.venv/bin/python book/figures/story.py`.

The same seeds and classes, guided in different ways, ticked where the judge sees the class.
"""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ppap_book import plots
from ppap_book.studies import guidance
from ppap_lib.zoo.tiers import tier

ASKED = ("none", "naive", "single", "multi5", "ppap5")


def main() -> None:
    plots.style()
    classes = tier("fashion").classes
    drawn, right = guidance.one_of_each(ASKED)
    figure = Figure(figsize=(10, 4.9))
    plots.comparison(figure.subplots(len(ASKED), len(classes)), drawn, right, classes)
    drawn_in_full = BytesIO()
    figure.savefig(drawn_in_full, dpi=110)
    # Greys and two colours of ticks: a palette says it in half of the bytes.
    of_few_colours = Image.open(drawn_in_full).convert("RGB").quantize(64)
    of_few_colours.save(Path(__file__).with_name("story.png"), optimize=True)


if __name__ == "__main__":
    main()
