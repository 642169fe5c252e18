"""Draw story.png, the README's picture: `.venv/bin/python book/figures/story.py`.

The same seeds and classes, guided in different ways, ticked where the judge sees the class.
"""

from pathlib import Path

from matplotlib.figure import Figure

from ppap_lib import plots
from ppap_lib.studies import guidance
from ppap_lib.tiers import tier

ASKED = ("none", "naive", "single", "multi5", "ppap5")


def main() -> None:
    plots.style()
    classes = tier("fashion").classes
    drawn, right = guidance.one_of_each(ASKED)
    figure = Figure(figsize=(10, 4.9))
    plots.comparison(figure.subplots(len(ASKED), len(classes)), drawn, right, classes)
    figure.savefig(Path(__file__).with_name("story.png"), dpi=110)


if __name__ == "__main__":
    main()
