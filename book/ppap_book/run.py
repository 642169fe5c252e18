"""`python -m ppap_book run NAME ...`: studies from the command line, into the ledger."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ppap_book.errors import StudyError
from ppap_book.studies import (
    ablation,
    architecture,
    attention,
    curve,
    distillation,
    gradients,
    guidance,
    guidance_outcomes,
    intervals,
    methods,
    noise,
    noisy_accuracy,
    samplers,
    scales,
    training,
    variants,
)
from ppap_lib.cli import run_command
from ppap_lib.device import pick_device
from ppap_lib.zoo.presets import IMAGES
from ppap_lib.zoo.tiers import tier as preset

_SCALES = [guidance.PUBLISHED_SCALE]

_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tier": {"default": "fashion", "help": "preset (default: %(default)s)"},
        "device": {"default": "auto", "help": "auto, cpu, cuda or cuda:1 (default: %(default)s)"},
        "folder": {"required": True, "help": "of a finished run"},
        "guide": {"default": "resnet18", "help": "of the tier (default: %(default)s)"},
        "extractor": {"default": "lite2", "help": "lite2 or inception (default: %(default)s)"},
        "method": {"choices": tuple(methods.METHODS), "help": "(default: %(default)s)"},
        "scale": {
            "type": float,
            "default": guidance.PUBLISHED_SCALE,
            "help": "of guidance (default: %(default)s)",
        },
        "scales": {
            "type": float,
            "nargs": "+",
            "default": _SCALES,
            "help": "of guidance (default: %(default)s)",
        },
        "n": {"type": int, "help": "images of every run (default: %(default)s)"},
        "blocks": {"type": int, "default": 3, "help": "blocks of seeds (default: %(default)s)"},
    }
)
"""What several commands take; each command says which of these it reads."""


def _curve(given: argparse.Namespace) -> None:
    curve.run(given.tier, Path(given.folder), given.n, device=pick_device(given.device))


def _training(given: argparse.Namespace) -> str:
    return str(training.run(Path(given.folder)))


def _distillation(given: argparse.Namespace) -> str:
    return str(distillation.run(Path(given.folder), pick_device(given.device)))


def _ablation(given: argparse.Namespace) -> None:
    if given.shipped:
        training, trained = distillation.shipped(given.shipped)
    else:
        training, trained, _ = distillation.finished(Path(given.folder))
    device = pick_device(given.device)
    ablation.record(training, trained, given.scales, given.n, given.blocks, device)


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
        pick_device(given.device),
    )


_USUAL: Mapping[str, Any] = MappingProxyType(
    {"guide": "resnet18", "n": 100, "sampler": "ddim25", "scales": _SCALES}
)
"""Of the guidance study, where anything narrows it."""

_NARROWING = (*_USUAL, "methods", "blocks", "sweep", "at_best", "released_routing")


def _guidance(given: argparse.Namespace) -> None:
    device = pick_device(given.device)
    said = {name for name in _NARROWING if getattr(given, name) is not None}
    if not said:
        return _all_of_guidance(given.tier, given.extractor, device)
    vars(given).update({name: usual for name, usual in _USUAL.items() if name not in said})
    there = methods.installed(given.guide, given.tier)
    names = given.methods.split(",") if given.methods else there
    if not given.methods:
        for method in (m for m in methods.METHODS if m not in there):
            print(f"{methods.title(method)} is left out: its weights are not here")
    alike = {"n": given.n, "tier": given.tier, "extractor": given.extractor}
    alike["blocks"] = given.blocks or (1 if given.sweep else 3)
    if given.at_best:
        found = guidance_outcomes.at_best(given.guide, given.sampler, **alike)
        swept = {"none", *(run.method for run in found)}
        for method in (m for m in names if m not in swept):
            print(f"{methods.title(method)} is left out: no scale sweep is in the ledger")
        runs = [run for run in found if run.method in names]
    else:
        alike["first_seed"] = guidance.SWEEP_SEED if given.sweep else 0
        strengths = guidance.SWEEP if given.sweep else given.scales
        runs = guidance.plan(names, given.guide, given.sampler, strengths, **alike)
    if given.released_routing:
        runs = [replace(run, released_routing=True) for run in runs]
    guidance.record(runs, device)


def _all_of_guidance(tier: str, extractor: str, device: torch.device) -> None:
    """The tier's whole study, but for what the ledger has: parts, sweep, each at its best scale."""
    on_a_gpu = guidance.ON_A_GPU if device.type == "cuda" else ()
    parts = [part for part in (*guidance.FULL, *on_a_gpu) if part.tier == tier]
    if not parts:
        raise StudyError(
            f"no study of {tier} is planned: say which runs, by --guide, --n and so on"
        )
    alike = {"tier": tier, "extractor": extractor}
    there = {part.guide: methods.installed(part.guide, tier) for part in parts}
    for part in parts:
        names = [method for method in part.methods if method in there[part.guide]]
        runs = guidance.plan(names, part.guide, part.sampler, n=part.n, blocks=part.blocks, **alike)
        guidance.record(runs, device)
    swept = {"scales": guidance.SWEEP, "blocks": 1, "first_seed": guidance.SWEEP_SEED}
    for guide, names in there.items():
        guidance.record(guidance.plan(names, guide, **swept, **alike), device)
        guidance.record(guidance_outcomes.at_best(guide, n=guidance.AT_BEST, **alike), device)


def _gradients(given: argparse.Namespace) -> None:
    made = gradients.plan(given.guide, given.n, given.tier)
    gradients.record([made], pick_device(given.device))


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
    noise.record(runs, pick_device(given.device))


def _samplers(given: argparse.Namespace) -> None:
    solvers = given.solvers or samplers.FIXED
    unread: dict[str, str] = {}
    if given.method == "none":
        unread |= dict.fromkeys(("guide", "scale"), "nothing guides: give a --method")
    if "pf" not in solvers:
        unread["tolerances"] = "they are for the solver pf, which is not among --solvers"
    if set(solvers) == {"pf"}:
        unread["budgets"] = "the solver pf has none, but --tolerances"
        unread["grid"] = "the solver pf chooses its steps itself"
    options = ("budgets", "method", "guide", "scale", "n", "blocks", "tier", "grid", "tolerances")
    runs = []
    for run in samplers.plan(solvers, **_given(given, options, unread)):
        if reason := samplers.reason_against(run):
            print(f"{run.label}: left blank, {reason}")
        else:
            runs.append(run)
    samplers.record(runs, pick_device(given.device))


def _intervals(given: argparse.Namespace) -> None:
    runs = intervals.plan(
        given.method, given.guide, given.scale, given.n, given.blocks, tier=given.tier
    )
    intervals.record(runs, pick_device(given.device))


def _scales(given: argparse.Namespace) -> None:
    runs = scales.plan(
        given.methods, given.guide, given.scales, given.n, given.blocks, tier=given.tier
    )
    scales.record(runs, pick_device(given.device))


def _untrained(tier: str) -> None:
    for guide in preset(tier).guides:
        for name in noisy_accuracy.missing(guide, tier):
            print(f"{name} is left out: it is not trained yet")


def _reading(given: argparse.Namespace) -> None:
    runs = [
        noisy_accuracy.photographs(given.first_seed),
        *noisy_accuracy.plan(given.tier, given.n, given.first_seed),
    ]
    _untrained(given.tier)
    noisy_accuracy.record(runs, pick_device(given.device))


def _attention(given: argparse.Namespace) -> None:
    plans = (
        attention.plan(guide, given.tier, given.n, given.first_seed)
        for guide in preset(given.tier).guides
    )
    _untrained(given.tier)
    attention.record([run for plan in plans for run in plan.values()], pick_device(given.device))


def _given(
    given: argparse.Namespace, names: Iterable[str], unread: Mapping[str, str]
) -> dict[str, Any]:
    """The options that were given; `StudyError` for one that is `unread`, with the reason."""
    found = {name: value for name in names if (value := getattr(given, name)) is not None}
    if ignored := [name for name in found if name in unread]:
        raise StudyError(f"--{ignored[0]} would be ignored: {unread[ignored[0]]}")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line. A command has the options that it reads, and no others."""
    top = argparse.ArgumentParser(prog="python -m ppap_book run", description=__doc__)
    names = top.add_subparsers(required=True, metavar="NAME")

    def command(name: str, run, text: str, *options: str, **defaults) -> argparse.ArgumentParser:
        """With these of `_OPTIONS`, as they are there or with another default."""
        sub = names.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        for option in (*options, *defaults):
            changed = {"default": defaults[option]} if option in defaults else {}
            sub.add_argument(f"--{option}", **{**_OPTIONS[option], **changed})
        return sub

    text = "KID and FD of every EMA snapshot of a training run"
    command("curve", _curve, text, "folder", "tier", "device", n=200)
    command("training", _training, "file a finished training run's course", "folder")
    text = "file a finished training of experts"
    command("distillation", _distillation, text, "folder", "device")
    text = "guide by a finished training of experts"
    sub = command("ablation", _ablation, text, "scales", "device", n=100, blocks=1)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--folder", help="of a finished run")
    which.add_argument("--shipped", metavar="NAME", help="a set such as fashion/ppap5-resnet18")

    text = "train variants of PPAP-5, and guide by each"
    shared = {"n": variants.N, "blocks": variants.BLOCKS}
    sub = command("ablations", _ablations, text, "guide", "scales", "device", **shared)
    sub.add_argument("--data", required=True, help="folder of a set by ppap_lib.samplers.draw")
    sub.add_argument("--only", nargs="+", choices=tuple(variants.VARIANTS), help="(default: all)")
    sub.add_argument("--images", type=int, default=IMAGES, help="of each (default: %(default)s)")
    sub.add_argument("--folder", default="runs/ablations", help="(default: %(default)s)")

    text = (
        "every method's guidance, image by image: all that is planned of the tier, or what is said"
    )
    sub = command("guidance", _guidance, text, "tier", "extractor", "device")
    sub.add_argument("--guide", help="of the tier (default: resnet18)")
    sub.add_argument("--n", type=int, help="images of every run (default: 100)")
    sub.add_argument("--sampler", help="or ddpm250 (default: ddim25)")
    sub.add_argument("--methods", help="comma-separated (default: all whose weights ship)")
    which = sub.add_mutually_exclusive_group()
    usual = guidance.PUBLISHED_SCALE
    which.add_argument("--scales", type=float, nargs="+", help=f"of guidance (default: {usual})")
    flag = {"action": "store_true", "default": None}  # None: not said
    which.add_argument("--sweep", **flag, help="the scale sweep on its own seeds")
    which.add_argument("--at-best", **flag, help="each at its best scale of the sweep")
    sub.add_argument("--blocks", type=int, help="blocks of seeds (default: 3, of the sweep 1)")
    sub.add_argument(
        "--released-routing", **flag, help="edges to the expert below (name --methods)"
    )

    text = "every method's gradient on the same noisy images"
    command("gradients", _gradients, text, "tier", "guide", "device", n=40)

    text = "every variant of ADM's ablation, on the CPU"
    sub = command("architecture", _architecture, text, "tier")
    sub.add_argument("--seconds", type=float, default=40.0, help="each one's (default: 40)")

    text = "a second draw of noise a step, and other betas"
    sub = command("noise", _noise, text, "tier", "device")
    sub.add_argument("--steps", type=int, nargs="+", default=[25], help="(default: 25)")
    sub.add_argument("--tweaks", nargs="+", choices=tuple(noise.TWEAKS), help="(default: all)")
    sub.add_argument("--clipped", action="store_true", help="leave the unclipped runs out")
    each = ", ".join(f"{n} in {steps:,} steps" for steps, n in noise.STEPS.items())
    sub.add_argument("--n", type=int, help=f"images per repeat (default: {each})")
    sub.add_argument("--repeats", type=int, default=3, help="blocks of seeds (default: 3)")

    text = "every solver within a budget of evaluations"
    shared = {"method": "none", "n": 100, "blocks": 1}
    sub = command("samplers", _samplers, text, "tier", "device", **shared)
    sub.add_argument("--solvers", nargs="+", metavar="NAME", help="(default: all but pf)")
    sub.add_argument("--grid", choices=tuple(samplers.GRIDS), help="(default: uniform)")
    sub.add_argument("--budgets", type=int, nargs="+", help="of evaluations (default: 10)")
    tried = " ".join(map(str, samplers.TOLERANCES))
    sub.add_argument("--tolerances", type=float, nargs="+", help=f"of pf (default: {tried})")
    sub.add_argument("--guide", help="of the tier, with a --method (default: resnet18)")
    usual = guidance.PUBLISHED_SCALE
    sub.add_argument("--scale", type=float, help=f"of guidance, likewise (default: {usual})")

    text = "guidance within some intervals only"
    shared = {"method": "ppap5", "n": 40}
    command("intervals", _intervals, text, "tier", "guide", "scale", "blocks", "device", **shared)

    text = "what more guidance buys, and what it costs"
    shared = {"scales": list(scales.SCALES), "n": 70}
    sub = command("scales", _scales, text, "tier", "guide", "blocks", "device", **shared)
    sub.add_argument("--methods", nargs="+", default=scales.METHODS, choices=tuple(methods.METHODS))

    for name, run, n, text in (
        ("reading", _reading, 1000, "how models read noisy images, by timestep"),
        ("attention", _attention, 200, "where every expert looks, at every noise level"),
    ):
        sub = command(name, run, text, "tier", "device", n=n)
        sub.add_argument("--first-seed", type=int, default=0, help="of the noise (default: 0)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return run_command(parser(), lambda given: given.run(given), arguments)


if __name__ == "__main__":
    sys.exit(main())
