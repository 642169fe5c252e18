"""Draw story.png, the README's picture: `.venv/bin/python book/figures/story.py`.

Rows are ways of guiding equal seeds to equal classes; a tick says that the judge sees the class.
"""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ppap_book import plots
from ppap_book.studies import guidance
from ppap_lib.zoo.tiers import tier

METHODS = ("none", "naive", "single", "multi5", "ppap5")


def main() -> None:
    plots.style()
    classes = tier("fashion").classes
    images, right = guidance.one_of_each(METHODS)
    figure = Figure(figsize=(10, 4.9))
    plots.comparison(figure.subplots(len(METHODS), len(classes)), images, right, classes)
    full = BytesIO()
    figure.savefig(full, dpi=110)
    # Greys and two colours of ticks: a palette says it in half of the bytes.
    palette = Image.open(full).convert("RGB").quantize(64)
    palette.save(Path(__file__).with_name("story.png"), optimize=True)


if __name__ == "__main__":
    main()
