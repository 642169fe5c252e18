"""Draw story.png, the README's picture: `.venv/bin/python book/figures/story.py`.

The same seeds and classes, guided in different ways, ticked where the judge sees the class.
"""

from pathlib import Path

from matplotlib.figure import Figure

from ppap_lib import plots, seeds, zoo
from ppap_lib.studies import guidance, methods
from ppap_lib.tiers import tier

ASKED = ("none", "naive", "single", "multi5", "ppap5")


def main() -> None:
    plots.style()
    classes = tier("fashion").classes
    wanted = seeds.labels(range(len(classes)), len(classes))
    drawn = {
        methods.title(method): guidance.draw(guidance.Guidance(method=method, n=len(classes)))
        for method in ASKED
    }
    judge = zoo.load("fashion/judge")
    right = {name: guidance.verdicts(judge, images, wanted) for name, images in drawn.items()}
    figure = Figure(figsize=(10, 4.9))
    plots.comparison(figure.subplots(len(ASKED), len(classes)), drawn, right, classes)
    figure.savefig(Path(__file__).with_name("story.png"), dpi=110)


if __name__ == "__main__":
    main()
