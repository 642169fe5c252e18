"""`python -m ppap_lib.studies NAME ...`: studies from the command line, into the ledger."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ppap_lib import commands, devices, metrics, weights
from ppap_lib.distill.fitting import IMAGES
from ppap_lib.studies import (
    ablation,
    architecture,
    attention,
    curve,
    distillation,
    gradients,
    guidance,
    intervals,
    methods,
    noise,
    outcome,
    reading,
    samplers,
    scales,
    training,
    variants,
)
from ppap_lib.tiers import tier as preset


def _curve(given: argparse.Namespace) -> None:
    curve.run(given.tier, Path(given.folder), given.n, device=devices.pick(given.device))


def _training(given: argparse.Namespace) -> str:
    return str(training.run(Path(given.folder)))


def _reference(given: argparse.Namespace) -> None:
    device = devices.pick(given.device)
    found = metrics.extract_real(given.tier, given.extractor, device)
    path = metrics.reference_file(given.tier, given.extractor)
    weights.save({"vectors": found.vectors}, path, torch.float16)
    print(f"{len(found)} real images: {path.name}")


def _distillation(given: argparse.Namespace) -> str:
    return str(distillation.run(Path(given.folder), devices.pick(given.device)))


def _ablation(given: argparse.Namespace) -> None:
    device = devices.pick(given.device)
    ablation.record(Path(given.folder), given.scales, given.n, given.blocks, device)


def _ablations(given: argparse.Namespace) -> None:
    variants.record(
        given.only or variants.available(given.guide),
        given.guide,
        Path(given.data),
        given.images,
        Path(given.folder),
        given.scales,
        given.n,
        given.blocks,
        devices.pick(given.device),
    )


def _guidance(given: argparse.Namespace) -> None:
    device = devices.pick(given.device)
    there = methods.installed(given.guide, given.tier)
    names = given.methods.split(",") if given.methods else there
    for method in sorted(set(methods.METHODS) - set(there), key=list(methods.METHODS).index):
        print(f"{methods.title(method)} is left out: its weights are not trained yet")
    alike = {"n": given.n, "tier": given.tier, "extractor": given.extractor}
    if given.at_best:
        found = outcome.at_best(given.guide, given.sampler, blocks=given.blocks, **alike)
        runs = [run for run in found if run.method in names]
    elif given.sweep:
        seeds = {"first_seed": guidance.SWEEP_SEED, "blocks": 1}
        runs = guidance.plan(names, given.guide, given.sampler, guidance.SWEEP, **seeds, **alike)
    else:
        runs = guidance.plan(
            names, given.guide, given.sampler, given.scales, blocks=given.blocks, **alike
        )
    if given.released_routing:
        runs = [replace(run, released_routing=True) for run in runs]
    guidance.record(runs, device)


def _gradients(given: argparse.Namespace) -> None:
    made = gradients.Gradients.with_weights(guide=given.guide, n=given.n, tier=given.tier)
    gradients.record([made], devices.pick(given.device))


def _architecture(given: argparse.Namespace) -> None:
    architecture.record(architecture.plan(given.tier, given.seconds))


def _noise(given: argparse.Namespace) -> None:
    runs = noise.plan(
        given.steps,
        given.tweaks or tuple(noise.TWEAKS),
        (True,) if given.clipped else (True, False),
        given.n,
        given.repeats,
        given.tier,
    )
    noise.record(runs, devices.pick(given.device))


def _samplers(given: argparse.Namespace) -> None:
    runs = samplers.plan(
        given.solvers or samplers.FIXED,
        given.budgets,
        given.method,
        given.guide,
        given.scale,
        given.n,
        given.blocks,
        given.tier,
        given.grid,
        given.tolerances,
    )
    samplers.record(runs, devices.pick(given.device))


def _intervals(given: argparse.Namespace) -> None:
    runs = intervals.plan(
        given.method, given.guide, given.scale, given.n, given.blocks, tier=given.tier
    )
    intervals.record(runs, devices.pick(given.device))


def _scales(given: argparse.Namespace) -> None:
    runs = scales.plan(
        given.methods, given.guide, given.scales, given.n, given.blocks, tier=given.tier
    )
    scales.record(runs, devices.pick(given.device))


def _untrained(tier: str) -> None:
    for guide in preset(tier).guides:
        for name in reading.missing(guide, tier):
            print(f"{name} is left out: it is not trained yet")


def _reading(given: argparse.Namespace) -> None:
    runs = [
        reading.photographs(given.first_seed),
        *reading.plan(given.tier, given.n, given.first_seed),
    ]
    _untrained(given.tier)
    reading.record(runs, devices.pick(given.device))


def _attention(given: argparse.Namespace) -> None:
    plans = (
        attention.plan(guide, given.tier, given.n, given.first_seed)
        for guide in preset(given.tier).guides
    )
    _untrained(given.tier)
    attention.record([run for plan in plans for run in plan.values()], devices.pick(given.device))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m ppap_lib.studies", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="NAME")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--tier", default="fashion", help="preset (default: fashion)")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
        return sub

    sub = command("curve", _curve, "KID and FD of every EMA snapshot of a training run")
    sub.add_argument("--folder", required=True, help="the run's folder")
    sub.add_argument("--n", type=int, default=200, help="images per snapshot (default: 200)")
    sub = command("training", _training, "file a finished training run's course")
    sub.add_argument("--folder", required=True, help="the run's folder")
    sub = command("reference", _reference, "extract the real features that ship with a tier")
    sub.add_argument("--extractor", default="lite2", help="lite2 or inception")
    sub = command("distillation", _distillation, "file a finished training of experts")
    sub.add_argument("--folder", required=True, help="the run's folder")
    sub = command("ablation", _ablation, "guide by a finished training of experts")
    sub.add_argument("--folder", required=True, help="the training's folder")
    sub.add_argument("--scales", type=float, nargs="+", default=[guidance.PUBLISHED_SCALE])
    sub.add_argument("--n", type=int, default=100, help="images per block (default: 100)")
    sub.add_argument("--blocks", type=int, default=1, help="blocks of seeds (default: 1)")
    sub = command("ablations", _ablations, "train variants of PPAP-5, and guide by each")
    sub.add_argument("--data", required=True, help="folder of a set by ppap_lib.generate")
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--only", nargs="+", choices=tuple(variants.VARIANTS), help="(default: all)")
    sub.add_argument("--images", type=int, default=IMAGES, help="of each (default: %(default)s)")
    sub.add_argument("--folder", default="runs/ablations", help="(default: %(default)s)")
    sub.add_argument("--scales", type=float, nargs="+", default=[guidance.PUBLISHED_SCALE])
    sub.add_argument("--n", type=int, default=variants.N, help="a block (default: %(default)s)")
    sub.add_argument("--blocks", type=int, default=variants.BLOCKS, help="(default: %(default)s)")
    sub = command("guidance", _guidance, "every method's guidance, image by image")
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--sampler", default="ddim25", help="ddim25 or ddpm250 (default: ddim25)")
    sub.add_argument("--methods", help="comma-separated (default: all whose weights ship)")
    sub.add_argument("--scales", type=float, nargs="+", default=[guidance.PUBLISHED_SCALE])
    sub.add_argument("--extractor", default="lite2", help="lite2 or inception (default: lite2)")
    sub.add_argument("--sweep", action="store_true", help="the scale sweep on its own seeds")
    sub.add_argument("--at-best", action="store_true", help="each at its best scale of the sweep")
    sub.add_argument("--n", type=int, default=100, help="images per block (default: 100)")
    sub.add_argument("--blocks", type=int, default=3, help="blocks of seeds (default: 3)")
    sub.add_argument(
        "--released-routing", action="store_true", help="edges to the expert below (name --methods)"
    )
    sub = command("gradients", _gradients, "every method's gradient on the same noisy images")
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--n", type=int, default=40, help="images (default: 40)")
    sub = command("architecture", _architecture, "every variant of ADM's ablation, on the CPU")
    sub.add_argument("--seconds", type=float, default=40.0, help="each one's (default: 40)")
    sub = command("noise", _noise, "a second draw of noise a step, and other betas")
    sub.add_argument("--steps", type=int, nargs="+", default=[25], help="(default: 25)")
    sub.add_argument("--tweaks", nargs="+", choices=tuple(noise.TWEAKS), help="(default: all)")
    sub.add_argument("--clipped", action="store_true", help="leave the unclipped runs out")
    sub.add_argument("--n", type=int, help="images per repeat (default: 66, of 1,000 steps 10)")
    sub.add_argument("--repeats", type=int, default=3, help="blocks of seeds (default: 3)")
    sub = command("samplers", _samplers, "every solver within a budget of evaluations")
    sub.add_argument("--solvers", nargs="+", metavar="NAME", help="(default: all)")
    sub.add_argument("--grid", default="uniform", choices=tuple(samplers.GRIDS))
    sub.add_argument("--budgets", type=int, nargs="+", default=[10], help="(default: 10)")
    sub.add_argument(
        "--tolerances", type=float, nargs="+", default=samplers.TOLERANCES, help="of pf"
    )
    sub.add_argument("--method", default="none", choices=tuple(methods.METHODS))
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--scale", type=float, default=guidance.PUBLISHED_SCALE, help="of guidance")
    sub.add_argument("--n", type=int, default=100, help="images per block (default: 100)")
    sub.add_argument("--blocks", type=int, default=1, help="blocks of seeds (default: 1)")
    sub = command("intervals", _intervals, "guidance within some intervals only")
    sub.add_argument("--method", default="ppap5", choices=tuple(methods.METHODS))
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--scale", type=float, default=guidance.PUBLISHED_SCALE, help="of guidance")
    sub.add_argument("--n", type=int, default=40, help="images per block (default: 40)")
    sub.add_argument("--blocks", type=int, default=3, help="blocks of seeds (default: 3)")
    sub = command("scales", _scales, "what more guidance buys, and what it costs")
    sub.add_argument("--methods", nargs="+", default=scales.METHODS, choices=tuple(methods.METHODS))
    sub.add_argument("--guide", default="resnet18", help="of the tier (default: resnet18)")
    sub.add_argument("--scales", type=float, nargs="+", default=scales.SCALES)
    sub.add_argument("--n", type=int, default=70, help="images per block (default: 70)")
    sub.add_argument("--blocks", type=int, default=3, help="blocks of seeds (default: 3)")
    for name, run, n, text in (
        ("reading", _reading, 1000, "how models read noisy images, by timestep"),
        ("attention", _attention, 200, "where every expert looks, at every noise level"),
    ):
        sub = command(name, run, text)
        sub.add_argument("--n", type=int, default=n, help=f"images per model (default: {n})")
        sub.add_argument("--first-seed", type=int, default=0, help="of the noise (default: 0)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return commands.run(parser(), lambda given: given.run(given), arguments)


if __name__ == "__main__":
    sys.exit(main())
