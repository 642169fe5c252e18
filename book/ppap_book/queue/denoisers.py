"""The training of a tier's denoiser as jobs: how long, as it turns out, and in how many bits."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppap_book import run
from ppap_book.queue.engine import Command, Job, Step, in_steps
from ppap_book.queue.trainings import Place, trained
from ppap_book.studies.denoiser_training import CURVE, TRAINING
from ppap_lib import zoo
from ppap_lib.training import fit
from ppap_lib.zoo import tiers
from ppap_lib.zoo.cards import Card

N, BLOCKS = 2_000, 3
"""Images by which a denoiser is judged: so many, in so many blocks of seeds."""

NEAR = 1_000
"""A run of so many images ends, or keeps a snapshot, by less than so many images later."""


@dataclass(frozen=True)
class DenoiserTraining:
    """A training of a tier's denoiser that is doubled if that is worth it.

    Parameters
    ----------
    place : Place
        Where the queue works.
    images : int
        Images seen, before they are doubled.
    before : int
        The snapshot after so many images shows whether quality still improves.
    gain : float
        The training is doubled if the last images lowered KID by more than this.
    tier : str
        Whose denoiser.
    """

    place: Place
    images: int
    before: int
    gain: float
    tier: str = "fashion"

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.place.folder / "denoiser"

    @property
    def card(self) -> Card:
        """The card of the denoiser that is installed."""
        return zoo.card(tiers.tier(self.tier).named("denoiser"))

    def seen(self) -> int:
        """Return the images that the folder's finished training has seen, 0 without one."""
        if not (self.folder / fit.SUMMARY).is_file():
            return 0
        return fit.finished(self.folder, "train denoiser")["images_seen"]

    def installed(self, images: int) -> bool:
        """Return whether the installed denoiser has seen so many images."""
        return (self.card.images_seen or 0) >= images

    def kid(self, digest: str | None) -> Mapping[int, float]:
        """Return KID of the weights with this sha256, by the first seed of its blocks."""
        return {
            row["params"]["first_seed"]: row["results"]["kid"]
            for row in CURVE.rows()
            if row["params"]["sha256"] == digest
            and row["params"]["tier"] == self.tier
            and row["params"]["n"] == N
        }

    def ended_with(self, images: int) -> str | None:
        """Return the sha256 that a training of so many images ended with, as the ledger has it."""
        for row in TRAINING.rows():
            own = row["params"]["tier"] == self.tier and row["params"]["network"] == "denoiser"
            if own and images <= row["results"]["images_seen"] < images + NEAR:
                return row["params"]["sha256"]
        return None

    def snapshot(self, images: int) -> str | None:
        """Return the sha256 of the snapshot after so many images, as the ledger has it."""
        for row in CURVE.rows():
            seen, tier = row["params"]["images_seen"], row["params"]["tier"]
            if tier == self.tier and row["params"]["n"] == N and images <= seen < images + NEAR:
                return row["params"]["sha256"]
        return None

    def improves(self) -> bool | None:
        """Return whether the last images lowered KID by more than `gain`; None if not known yet."""
        ends = self.kid(self.snapshot(self.before)), self.kid(self.ended_with(self.images))
        if any(len(kid) < BLOCKS for kid in ends):
            return None
        earlier, later = (statistics.mean(kid.values()) for kid in ends)
        return earlier - later > self.gain

    def goal(self) -> int:
        """Return the images that it is to see, as far as is known."""
        return 2 * self.images if self.improves() else self.images

    def suffers(self) -> bool | None:
        """Return whether 8 bits move KID by more than its standard error; None if not known yet.

        Of blocks of the same seeds, whose differences are the weights' alone.
        """
        whole = self.kid(self.ended_with(self.goal()))
        in_8_bits = self.card.file.get("dtype") == "int8" and self.installed(self.goal())
        packed = self.kid(self.card.sha256) if in_8_bits else {}
        shared = whole.keys() & packed.keys()
        if len(shared) < BLOCKS:
            return None
        moved = statistics.mean(packed[seed] - whole[seed] for seed in shared)
        error = statistics.stdev(whole[seed] for seed in shared) / math.sqrt(len(shared))
        return abs(moved) > error

    def train(self, images: int) -> Command:
        """Return the command line that trains up to so many images, or goes on."""
        where = ["--folder", str(self.folder), "--device", self.place.device]
        what = ["denoiser", "--tier", self.tier, "--images", str(images)]
        return ("ppap", "train", *what, *where, "--resume", "--quiet")

    def file(self) -> Command:
        """Return the command line that files the training."""
        return ("ppap_book", "run", "training", "--folder", str(self.folder))

    def curve(self, since: int | None = None) -> Command:
        """Return the command line that scores all points, or the last ones in all blocks."""
        blocks = [] if since is None else ["--blocks", str(BLOCKS), "--since", str(since)]
        return self._scored("--folder", str(self.folder), *blocks)

    def _scored(self, *which: str) -> Command:
        size = ["--tier", self.tier, "--n", str(N), "--device", self.place.device]
        return ("ppap_book", "run", "curve", *which, *size)

    def install(self, dtype: str) -> Command:
        """Return the command line that installs what the training ended with."""
        asset = {"asset": self.card.file["asset"]}
        file = asset if dtype == "float16" else asset | {"dtype": dtype}
        weights = self.folder / fit.WEIGHTS
        facts = ["--card", f"file={json.dumps(file)}"]
        return ("ppap_book", "cards", "install", self.card.name, str(weights), *facts)

    def jobs(self, hours: float) -> list[Job]:
        """Return its jobs, of which the training of `images` takes so many hours."""
        doubled = 2 * self.images

        def rows_left(command: Command, after: int) -> float:
            """Which part of a study's rows is missing; all, before it can be told."""
            return 1.0 if self.seen() < after else missing_part(command[2:])

        def steps(images: int, last: Command) -> list[Step]:
            course = self.curve()

            def untrained() -> float:
                if self.seen() >= images:
                    return 0.0
                unseen = (1 - trained(self.folder, images)) * images
                return min(1.0, unseen / self.images)

            return [
                Step(hours, untrained, lambda: self.train(images)),
                Step(0.01, lambda: rows_left(self.file(), images), self.file),
                Step(0.5, lambda: rows_left(course, images), lambda: course),
                Step(0.5, lambda: rows_left(last, images), lambda: last),
            ]

        def decided() -> bool:
            return self.improves() is not None

        def needless() -> bool:
            never_asked = self.installed(self.images) and not decided()
            return never_asked or self.installed(doubled) or self.improves() is False

        shipped = self._scored("--blocks", str(BLOCKS))
        return [
            in_steps(
                "denoiser",
                steps(self.images, self.curve(since=self.before)),
                lambda: self.installed(self.images) or (decided() and self.seen() >= self.images),
            ),
            in_steps("denoiser-doubled", steps(doubled, self.curve(since=doubled)), needless),
            in_steps(
                "denoiser-ships",
                [
                    Step(0.01, self._uninstalled, lambda: self.install("int8")),
                    Step(0.3, lambda: self._unscored(shipped), lambda: shipped),
                ],
            ),
            in_steps(
                "denoiser-float16",
                [
                    Step(
                        0.01,
                        lambda: float(self.suffers() is not False),
                        lambda: self.install("float16"),
                    )
                ],
                lambda: self.card.file.get("dtype") != "int8" and not self._uninstalled(),
            ),
        ]

    def _uninstalled(self) -> float:
        return float(not self.installed(self.goal()))

    def _unscored(self, command: Command) -> float:
        return self._uninstalled() or missing_part(command[2:])


def missing_part(arguments: Sequence[str]) -> float:
    """Return which part of the rows of `python -m ppap_book run ARGUMENTS` the ledger lacks."""
    missing, rows = run.missing(arguments)
    return missing / max(rows, 1)
