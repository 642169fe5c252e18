"""What the five commands do. Their options are the fields of the dataclasses that they read."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal

from ppap_lib import zoo
from ppap_lib.cli.options import CommandLine, add_options, given_of, parameters_of
from ppap_lib.data.shards import Manifest
from ppap_lib.device import device_for_rank, pick_device, torchrun_rank
from ppap_lib.distill.dataset import draw_set, pending
from ppap_lib.distill.experts import ExpertTraining, train_experts
from ppap_lib.errors import TrainingError
from ppap_lib.parameters import Parameters, param
from ppap_lib.training.fit import in_words
from ppap_lib.training.settings import Settings
from ppap_lib.zoo import datasets, presets, tiers
from ppap_lib.zoo.own import own_network


@dataclass(frozen=True)
class Run(Parameters):
    """Where a training runs, and where it is kept."""

    device: str = param("auto", help="auto, cpu, cuda or cuda:1.")
    folder: Path | None = param(None, help="Where the run is kept, by default below runs.")
    resume: bool = param(False, help="Continue from the folder's checkpoint, if there is one.")
    fresh: bool = param(False, help="Start afresh, and remove an earlier run in the folder.")
    quiet: bool = param(False, help="Show no progress bar.")

    @contextmanager
    def bar(self, title: str, settings: Settings) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Show a progress bar over the budget; the context gives the callback for logged rows."""
        from tqdm import tqdm

        layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
        with tqdm(total=1.0, desc=title, bar_format=layout, disable=self.quiet) as shown:

            def on_log(row: dict[str, Any]) -> None:
                shown.update(settings.fraction(row["step"], row["seconds"]) - shown.n)
                shown.set_postfix_str(
                    f"loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s, "
                    f"{row['images']:,} seen"
                )

            yield on_log


@dataclass(frozen=True)
class Budget(Parameters):
    """Whose settings are taken, and how long they train."""

    preset: str | None = param(None, help="Tier whose settings are taken, if not the own.")
    images: int | None = param(None, low=1, help="Budget in images seen.")

    def settings(self, given: argparse.Namespace, tier: str, *what: Any, **kind: Any) -> Settings:
        """Return the preset's settings with the options that were given in their place."""
        overrides = given_of(Settings, given)
        tier = self.preset or tier
        return presets.settings(tier, *what, images=self.images, **kind, **overrides)


@dataclass(frozen=True)
class Training(Parameters):
    """Which network is trained, on what."""

    part: Literal["denoiser", "resnet18", "vit", "judge"] = param(help="The tier's network.")
    tier: str = param("fashion", help="Preset of data and networks.")
    data: str | None = param(None, help="Name of another tier, whose images are used.")
    init: Path | None = param(None, help="Weight file to start from.")
    network: str | None = param(
        None, help="A network of your own in its place, as module:function."
    )
    prediction: Literal["v", "eps", "x0"] = param("v", help="What a denoiser outputs.")
    learned_variance: bool = param(True, help="A denoiser outputs ADM's variance, too.")
    min_snr: float | None = param(None, help="Cap of a denoiser's loss weight, such as 5.")


def train(given: argparse.Namespace) -> str:
    """Train a denoiser or a classifier of a tier."""
    training, run = parameters_of(Training, given), parameters_of(Run, given)
    tier, device = tiers.tier(training.tier), pick_device(run.device)
    budget = parameters_of(Budget, given)
    settings = budget.settings(given, tier.name, training.part, device)
    of_denoiser = given_of(Training, given).keys() & {"prediction", "learned_variance", "min_snr"}
    if of_denoiser and training.part != "denoiser":
        raise TrainingError(f"{training.part} has no {min(of_denoiser)}: a denoiser has")
    changes = {name: getattr(training, name) for name in of_denoiser}
    loss = tiers.training_objective(tier, training.part, **changes)
    network = training.network and own_network(training.network)
    images = datasets.require(training.data or tier.name, "train")
    title = f"{tier.name}/{training.part}"
    with run.bar(title, settings) as on_log:
        summary = tiers.train_network(
            tier,
            training.part,
            images.pixels,
            images.labels,
            settings,
            run.folder or Path("runs", "train", title.replace("/", "-")),
            network=network,
            loss=loss,
            device=device,
            resume=run.resume,
            fresh=run.fresh,
            init=training.init,
            on_start=print,
            on_log=on_log,
        )
    return in_words(summary)


def distill(given: argparse.Namespace) -> str:
    """Train experts of a classifier, or of a network of your own, on noisy images.

    Leaves experts.safetensors, which `experts.read` reads, and summary.json.
    """
    options, run = given_of(ExpertTraining, given), parameters_of(Run, given)
    kind = options.get("kind", ExpertTraining.kind)
    if kind == "transfer" and given.labelled == ("generated" in options):
        raise TrainingError(
            "say which images: --data FOLDER of a generated set, or --labelled for the tier's "
            "training images, whose labels are not read"
        )
    if kind == "supervised" and "temperature" in options:
        raise TrainingError("--temperature sharpens a teacher, and labels have none: leave it out")
    whole = kind == "supervised" and "rank" not in options
    training, device = ExpertTraining.of({**options, "whole": whole}), pick_device(run.device)
    budget, what = parameters_of(Budget, given), (training.tier, training.guide, device)
    settings = budget.settings(given, *what, experts=training.trains)
    words = (training.tier, training.guide.replace(":", "-"), training.kind, str(training.experts))
    folder = run.folder or Path("runs", "distill", "-".join(words))
    with run.bar(f"{training.backbone}, {training.experts} experts", settings) as on_log:
        summary = train_experts(
            training,
            settings,
            folder,
            device=device,
            resume=run.resume,
            fresh=run.fresh,
            on_start=print,
            on_log=on_log,
        )
    return in_words(summary)


@dataclass(frozen=True)
class Generation(Parameters):
    """Which images are drawn, and where they are kept."""

    images: int = param(help="Size of the set.")
    folder: Path = param(help="Where the set lies or will lie.")
    tier: str = param("fashion", help="Whose denoiser draws.")
    first_seed: int = param(1_000_000, help="Seed of the first image.")
    spacing: str = param("ddim25", help="Respacing of the schedule.")
    shard: int = param(1000, help="Images to a file.")
    batch: int | None = param(None, help="Images at a time, by default what the device bears.")
    device: str = param("auto", help="auto, cpu, cuda or cuda:1.")
    quiet: bool = param(False, help="Show no progress bar.")


def generate(given: argparse.Namespace) -> str:
    """Draw the set of images that experts learn from, in one process or under torchrun.

    torchrun --nproc-per-node 8 -m ppap_lib generate --images 500000 --folder DIR
    """
    from tqdm import tqdm

    options = parameters_of(Generation, given)
    rank, world = torchrun_rank()
    device, name = device_for_rank(options.device), tiers.tier(options.tier).named("denoiser")
    manifest = Manifest(
        options.images,
        options.first_seed,
        options.shard,
        tiers.tier(options.tier).shape,
        name,
        zoo.card(name).sha256 or "",
        options.spacing,
    )
    model = zoo.load(name, device).clipped()
    left = sum(map(len, pending(options.folder, manifest, rank, world)))
    with tqdm(total=left, unit="image", disable=options.quiet or rank > 0) as bar:
        drawn = draw_set(
            model,
            options.folder,
            manifest,
            rank=rank,
            world=world,
            batch=options.batch,
            done=bar.update,
        )
    return f"process {rank} of {world}: {drawn} shards drawn in {options.folder}"


@dataclass(frozen=True)
class Looking(Parameters):
    """Which images are looked for, and where."""

    tiers: tuple[str, ...] = param(help="fashion, tin10 or imagenet256.")
    offline: bool = param(False, help="Fetch nothing from the network.")


def data(given: argparse.Namespace) -> None:
    """Look for the images of tiers, fetch what is missing, and check both splits."""
    options = parameters_of(Looking, given)
    for name in options.tiers:
        for split in ("train", "test"):
            images = datasets.require(name, split, download=not options.offline)
            print(f"{name} {split}: {images.source}")


def table(given: argparse.Namespace) -> str:
    """List every network of the zoo: what it is, how good, under which licence, and where."""
    rows = (row.values() for row in zoo.table())
    return "\n".join(" | ".join(str(v) for v in row if v not in (None, "")) for row in rows)


def parser() -> argparse.ArgumentParser:
    """Return the command line of `ppap`."""
    top = CommandLine(prog="ppap", description="Plug-and-play diffusion guidance.")
    names = top.add_subparsers(required=True, metavar="train|distill|generate|data|list")

    def command(name: str, act: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        sub = names.add_parser(
            name,
            help=act.__doc__.splitlines()[0],
            description=cleandoc(act.__doc__),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=act)
        return sub

    sub = command("train", train)
    add_options(sub, Training, positional=("part",))
    _add_settings(sub)
    sub = command("distill", distill)
    add_options(
        sub, ExpertTraining, positional=("kind",), without=("whole",), names={"generated": "data"}
    )
    sub.add_argument(
        "--labelled",
        action="store_true",
        help="A transfer learns from the tier's training images, and does not read their labels.",
    )
    _add_settings(sub)
    add_options(command("generate", generate), Generation)
    add_options(command("data", data), Looking, positional=("tiers",))
    command("list", table)
    return top


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Options of every training."""
    add_options(parser, Settings, default="the preset's")
    add_options(parser, Budget)
    add_options(parser, Run)
