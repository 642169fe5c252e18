"""The table of jobs: every training and every row that is still to be made, in order.

Hours are of two cores. A line is a job, or one for each of its values; later jobs may wait for what
earlier ones show, such as the best of three learning rates.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ppap_book import run
from ppap_book.errors import StudyError
from ppap_book.queue.denoisers import DenoiserTraining
from ppap_book.queue.engine import Job, nothing
from ppap_book.queue.trainings import GuidedRows, Place, TrainingJob, best_factor, set_job
from ppap_book.studies.guidance import PUBLISHED_SCALE
from ppap_lib.data.tiny_imagenet import find
from ppap_lib.errors import DataError

METHODS = ("single", "multi5", "ppap5", "ppap10")
"""Methods of the `fashion` tier's ResNet that ship."""

EQUAL_PUSH = 0.12
"""The scale at which a guide pushes 32 pixels as 7.5 pushes 256: page 10."""

FACTORS = {"half": 0.5, "preset": 1.0, "double": 2.0}
"""Factors of the preset's learning rate that are tried."""


def jobs(folder: Path, device: str = "cpu") -> list[Job]:
    """Return all jobs, in order, of a queue whose trainings are kept in a folder."""
    here = Place(folder, device)
    return [*fashion(here), *photographs(here), *headline(here), architecture(here)]


def fashion(here: Place) -> list[Job]:
    """Return the jobs of `fashion`: its denoiser, set and ResNets anew, and how trainings vary."""
    denoiser = DenoiserTraining(here, images=600_000, before=400_000, gain=0.002)
    trials = {
        method: [
            TrainingJob(f"{method}-{word}", method, 60_000, here, factor=lambda by=by: by)
            for word, by in FACTORS.items()
        ]
        for method in METHODS
    }
    best = {method: partial(best_factor, trials[method]) for method in METHODS}
    best["one"] = best["ppap5"]
    varied = ("single", "multi5", "one", "ppap5")
    guided = GuidedRows(scales=(1.0, 7.5), n=200, blocks=3, hours=0.06)

    tried = [trial.job(0.06) for method in METHODS for trial in trials[method]]
    ship = [
        TrainingJob(f"{m}-600k", m, 600_000, here, factor=best[m]).job(0.6, ships=True)
        for m in METHODS
    ]
    vary = [
        TrainingJob(f"{m}-seed{s}", m, 60_000, here, seed=s, factor=best[m]).job(0.06, guided)
        for m in varied
        for s in (1, 2, 3)
    ]
    longer = [
        TrainingJob("single-120k", "single", 120_000, here, factor=best["single"]).job(0.1, guided)
    ]
    experts = [*tried, *ship, *vary, *longer]
    return [*denoiser.jobs(hours=5.0), set_job(here, "fashion", 1.0, experts), *experts]


def photographs(here: Place) -> list[Job]:
    """Return the jobs of `tin10`: each method's ResNet plain and augmented."""
    guided = GuidedRows(scales=(1.0, 7.5), n=100, blocks=3, hours=0.06)
    experts = [
        TrainingJob(f"tin10-{method}-{views}", method, 300_000, here, "tin10", augment).job(
            0.3, guided, lacks=tiny_imagenet
        )
        for views, augment in (("plain", False), ("augmented", True))
        for method in ("single", "multi5", "one", "ppap5")
    ]
    return [set_job(here, "tin10", 1.0, experts, tiny_imagenet), *experts]


def headline(here: Place) -> list[Job]:
    """Return the jobs of the guidance study: sweeps, then 3 x 500 images of every method a scale.

    The headline scale is the same for all methods. Beside it stand each method's best of the sweep,
    the published one and, as a floor, the scale of equal push; the transformer has fewer.
    """
    found = []
    for tier, lacks in (("fashion", nothing), ("tin10", tiny_imagenet)):
        for guide, scales in (
            ("resnet18", (PUBLISHED_SCALE, EQUAL_PUSH)),
            ("vit", (PUBLISHED_SCALE,)),
        ):
            cells = {f"at-{s:g}": ("--scales", f"{s:g}") for s in scales}
            cells |= {"halfway": ("--halfway",)}
            if guide == "resnet18":
                cells |= {"at-best": ("--at-best",)}
            what = ("guidance", "--tier", tier, "--guide", guide, "--blocks", "3")
            found.append(
                study(
                    here, f"{tier}-{guide}-sweep", 0.8, *what, "--sweep", "--n", "100", lacks=lacks
                )
            )
            found += [
                study(here, f"{tier}-{guide}-{name}", 0.6, *what, *how, "--n", "500", lacks=lacks)
                for name, how in cells.items()
            ]
    return found


def architecture(here: Place) -> Job:
    """Return the job of page 11: 30 core-minutes a variant, the base three times."""
    return study(here, "architecture", 3.5, "architecture", "--seconds", "1800")


def study(
    here: Place,
    name: str,
    hours: float,
    *arguments: str,
    lacks: Callable[[], str] = nothing,
) -> Job:
    """Return the job that runs a study: `python -m ppap_book run ARGUMENTS`, on the device."""
    on_cpu = run.COMMANDS[arguments[0]].on_cpu
    arguments = arguments if on_cpu else (*arguments, "--device", here.device)

    def left() -> float:
        try:
            missing, rows = run.missing(arguments)
        except StudyError:
            rows = 0
        return missing / rows if rows else 1.0  # none where other rows have yet to show a scale

    return Job(
        name,
        hours,
        left,
        lambda: [("ppap_book", "run", *arguments)],
        lacks,
    )


def tiny_imagenet() -> str:
    """Return what this machine lacks for `tin10`, in words; nothing if its images are here."""
    try:
        find()
    except DataError as error:
        return str(error)
    return ""
