"""Trainings of a guide's experts as jobs: from images to rows, and to weights that ship."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.queue.engine import Command, Job, Step, in_steps, nothing
from ppap_book.studies import methods
from ppap_book.studies.expert_training import ABLATION, DISTILLATION, varied
from ppap_lib import zoo
from ppap_lib.data.imageset import Origin
from ppap_lib.data.shards import MANIFEST, read_manifest
from ppap_lib.distill.dataset import pending
from ppap_lib.distill.experts import ExpertTraining
from ppap_lib.distill.fit import EXPERTS
from ppap_lib.training import fit
from ppap_lib.training.checkpoints import Log
from ppap_lib.training.settings import Settings
from ppap_lib.zoo import presets, tiers

Recogniser = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]

GUIDE = "resnet18"
SET, SPACING = 20_000, "ddim25"
"""Images that a transfer learns from, and how they are drawn."""

KINDS: Mapping[str, tuple[str, int]] = {
    "single": ("supervised", 1),
    "multi5": ("supervised", 5),
    "one": ("transfer", 1),
    "ppap5": ("transfer", 5),
    "ppap10": ("transfer", 10),
}
"""By its name, what teaches a method and how many experts it has; "one" is one LoRA update."""


@dataclass(frozen=True)
class Place:
    """Where a queue works: the `folder` of its trainings, and the `device`."""

    folder: Path
    device: str = "cpu"


@dataclass(frozen=True)
class GuidedRows:
    """The rows for which a training's experts guide, in blocks of seeds, and their hours."""

    scales: tuple[float, ...]
    n: int
    blocks: int
    hours: float

    def left(self, digest: str) -> float:
        """Return which part of the rows the ledger lacks, of the experts with this sha256."""
        wanted = {(s, k * self.n) for s in self.scales for k in range(self.blocks)}
        current = [p for p in map(_params, ABLATION.rows()) if methods.is_current(p)]
        filed = {
            (p["scale"], p["first_seed"])
            for p in current
            if p["sha256"] == digest and p["n"] == self.n
        }
        return len(wanted - filed) / len(wanted)

    def command(self, folder: Path, device: str) -> Command:
        """Return the command line that files them."""
        scales = [f"{scale:g}" for scale in self.scales]
        size = ["--n", str(self.n), "--blocks", str(self.blocks), "--device", device]
        return ("ppap_book", "run", "ablation", "--folder", str(folder), "--scales", *scales, *size)


@dataclass(frozen=True)
class TrainingJob:
    """One training of experts of a tier's ResNet, in a folder of its own.

    It is known by what it is, wherever its folder is: by its row of the study `distillation`, and
    by its card if it ships.

    Parameters
    ----------
    name : str
        The folder's.
    method : str
        One of `KINDS`.
    images : int
        Images seen by all experts together.
    place : Place
        Where the queue works.
    tier : str
        Whose images and guide.
    augment : bool
        Whether images are moved and mirrored as in the guide's own training.
    seed : int
        Decides weights, order and noise.
    factor : callable
        Returns by what the preset's learning rate is multiplied; None where earlier trainings have
        yet to show it.
    """

    name: str
    method: str
    images: int
    place: Place
    tier: str = "fashion"
    augment: bool = True
    seed: int = 0
    factor: Callable[[], float | None] = lambda: 1.0

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.place.folder / self.name

    @property
    def origin(self) -> Origin | None:
        """The set that a transfer learns from; labels teach on the tier's own images."""
        if not self.what.transfers:
            return None
        denoiser = tiers.tier(self.tier).named("denoiser")
        return Origin(SET, denoiser, SPACING, sha256=zoo.card(denoiser).sha256 or "")

    @property
    def what(self) -> ExpertTraining:
        """The training as the library names it."""
        kind, experts = KINDS[self.method]
        return ExpertTraining(
            guide=GUIDE,
            kind=kind,
            experts=experts,
            tier=self.tier,
            whole=kind == "supervised",
            augment=self.augment,
        )

    def preset(self, device: str = "cpu") -> Settings:
        """Return the preset's settings on a device."""
        return presets.settings(self.tier, GUIDE, device, experts=self.what.trains)

    def rate(self, batch: int, factor: float) -> float:
        """Return the highest learning rate for a batch, as presets have it, times a factor."""
        preset = self.preset()
        return preset.lr * math.sqrt(batch / preset.batch) * factor

    def recogniser(self) -> Recogniser:
        """Return by what a row's parameters and results, or a summary, are known as of this.

        A transfer from the set of another denoiser than the installed one is another training.
        """
        facts, factor = varied(self.what.recorded()), self.factor()
        drawn = asdict(self.origin) if self.origin else {}

        def is_this(params: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
            settings = told.get("settings", {})
            if factor is None or "seed" not in settings:  # as in rows of long ago
                return False
            batch = settings["batch"]
            return (
                facts.items() <= ({"augment": False} | params).items()
                and self.images <= params["images_seen"] < self.images + batch
                and settings["seed"] == self.seed
                and math.isclose(settings["lr"], self.rate(batch, factor), rel_tol=1e-6)
                and (told.get("generated") or {}) == drawn
            )

        return is_this

    def rows(self) -> list[ledger.Row]:
        """Return the rows of the study `distillation` that are of this training."""
        is_this = self.recogniser()
        return [row for row in DISTILLATION.rows() if is_this(row["params"], row["results"])]

    def summary(self) -> dict[str, Any] | None:
        """Return what the training left in its folder; None if it is not finished."""
        if not (self.folder / fit.SUMMARY).is_file():
            return None
        summary = fit.finished(self.folder, "distill")
        return summary if self.recogniser()(summary | varied(summary), summary) else None

    def chosen_factor(self) -> float:
        """Return the factor of the learning rate; `StudyError` where it is not known yet."""
        if (factor := self.factor()) is None:
            raise StudyError(
                f"the learning rate of {self.name} is chosen by trainings that are not filed yet: "
                f"run the jobs before it"
            )
        return factor

    def note(self) -> str:
        """Return what its card says of it, by which an installed set is told from an older one."""
        views = "moved and mirrored images" if self.augment else "images as they are"
        words = f"Trained on {views} at {self.chosen_factor():g} times the preset's learning rate"
        by = f"; the set was drawn by the denoiser {self.origin.sha256[:12]}" if self.origin else ""
        return f"{words}{by}."

    def ships(self) -> bool:
        """Return whether its result is installed under the name of its method."""
        if self.factor() is None:
            return False
        card = zoo.card(self.card)
        return (card.images_seen or 0) >= self.images and card.note == self.note()

    @property
    def card(self) -> str:
        """The name of the method's set in the zoo."""
        return tiers.tier(self.tier).named(f"{self.method}-{GUIDE}")

    def train(self) -> Command:
        """Return the command line that trains, or goes on."""
        kind, experts = KINDS[self.method]
        device = self.place.device
        source = ["--data", str(set_folder(self.place, self.tier))] if self.origin else []
        views = ["--augment"] if self.augment else []
        rate = self.rate(self.preset(device).batch, self.chosen_factor())
        budget = ["--images", str(self.images), "--lr", repr(rate)]
        what = ["--guide", GUIDE, "--tier", self.tier, "--experts", str(experts), *source, *views]
        where = ["--folder", str(self.folder), "--device", device, "--resume", "--quiet"]
        return ("ppap", "distill", kind, *what, *budget, "--seed", str(self.seed), *where)

    def file(self) -> Command:
        """Return the command line that files the training's row."""
        where = ["--folder", str(self.folder), "--device", self.place.device]
        return ("ppap_book", "run", "distillation", *where)

    def install(self) -> Command:
        """Return the command line that installs its result."""
        weights, note = self.folder / EXPERTS, f"note={self.note()}"
        return ("ppap_book", "cards", "install", self.card, str(weights), "--card", note)

    def job(
        self,
        hours: float,
        guided: GuidedRows | None = None,
        ships: bool = False,
        lacks: Callable[[], str] = nothing,
    ) -> Job:
        """Return the job that trains for so many hours, files the row, and what else is asked for.

        Parameters
        ----------
        hours : float
            What the training takes two cores.
        guided : GuidedRows, optional
            Rows for which the result guides.
        ships : bool
            Whether the result is installed.
        lacks : callable
            Returns what this machine lacks for it.
        """

        def done() -> bool:
            if ships:
                return self.ships()
            filed = [row["params"]["sha256"] for row in self.rows()]
            return any(guided is None or not guided.left(digest) for digest in filed)

        def digest() -> str:
            return (self.summary() or {}).get("sha256", "")

        def untrained() -> float:
            return 0.0 if self.summary() else 1 - trained(self.folder, self.images)

        def unfiled() -> float:
            return float(digest() not in [row["params"]["sha256"] for row in self.rows()])

        steps = [Step(hours, untrained, self.train), Step(0.02, unfiled, self.file)]
        if guided is not None:
            command = guided.command(self.folder, self.place.device)
            steps.append(Step(guided.hours, lambda: guided.left(digest()), lambda: command))
        if ships:
            steps.append(Step(0.01, lambda: float(not self.ships()), self.install))
        return in_steps(self.name, steps, done, lacks)


def _params(row: ledger.Row) -> Mapping[str, Any]:
    return row["params"]


def trained(folder: Path, images: int) -> float:
    """Return which part of its `images` the unfinished training in a folder has seen, by its log.

    Never all of them: what is finished has a summary.
    """
    rows = Log(folder / "log.jsonl").rows()
    return min(rows[-1]["images"] / images, 0.999) if rows else 0.0


def best_factor(trials: Sequence[TrainingJob]) -> float | None:
    """Return the factor of the training that reads best: by its accuracy, in the mean over t.

    None until all are filed.
    """
    filed = [trial.rows() for trial in trials]
    if not all(filed):
        return None
    accuracy = [
        statistics.mean(reading["accuracy"] for reading in rows[0]["results"]["readings"])
        for rows in filed
    ]
    return trials[accuracy.index(max(accuracy))].factor()


def set_folder(place: Place, tier: str) -> Path:
    """Return the folder of a tier's generated set."""
    return place.folder / ("generated" if tier == "fashion" else f"generated-{tier}")


def set_job(
    place: Place,
    tier: str,
    hours: float,
    learners: Sequence[Job],
    lacks: Callable[[], str] = nothing,
) -> Job:
    """Return the job that draws a tier's set, as long as one of its `learners` has work left."""
    folder, denoiser = set_folder(place, tier), tiers.tier(tier).named("denoiser")
    command = ("ppap", "generate", "--images", str(SET), "--tier", tier, "--spacing", SPACING)
    command += ("--folder", str(folder), "--device", place.device, "--quiet")

    def left() -> float:
        if not any(job.left() for job in learners):
            return 0.0
        if not (folder / MANIFEST).is_file():
            return 1.0
        manifest = read_manifest(folder)
        if manifest.sha256 != zoo.card(denoiser).sha256:
            return 1.0  # the command refuses the other denoiser's set, and says what to do
        return len(pending(folder, manifest)) / len(manifest.blocks())

    return Job(folder.name, hours, left, lambda: [command], lacks)
