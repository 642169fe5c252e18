"""The command line: `python -m ppap_lib.distill transfer --guide resnet18 --data FOLDER`.

Leaves experts.safetensors, which `experts.read` and `experts.load` read, and summary.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppap_lib import atomic, commands, data, devices, distill, experts, weights, zoo
from ppap_lib.data.generated import generated
from ppap_lib.distill.fitting import PRESETS, UPDATES
from ppap_lib.networks.lora import Adapted
from ppap_lib.schedule import Intervals, Schedule
from ppap_lib.tasks import Classification
from ppap_lib.tiers import tier
from ppap_lib.train import options
from ppap_lib.train.loop import crc32
from ppap_lib.train.recipes import SUMMARY, in_words

EXPERTS, TEACHER = "experts.safetensors", "teacher.safetensors"
HELD_OUT = 100
"""Test images of every class on which the result is measured, at most."""


def _parser() -> argparse.ArgumentParser:
    common = options.common()
    add = common.add_argument
    add("--guide", choices=tuple(UPDATES), required=True, help="the clean network to start from")
    add("--experts", type=int, default=5, help="number of intervals (default: %(default)s)")
    add("--images", type=int, help="budget in images, of all experts together")
    add("--preset", choices=tuple(PRESETS), help="settings to start from (default: the tier's)")
    add("--warm-start", action="store_true", help="one expert after another, as released")
    add("--shared-time", action="store_true", help="one timestep for the whole batch, as released")
    add("--no-scale", action="store_true", help="updates without the LoRA scale, as released")
    parser = argparse.ArgumentParser(
        prog="python -m ppap_lib.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="kind", required=True)
    transfer = commands.add_parser(
        "transfer", parents=[common], help="low-rank updates learn from the clean network"
    )
    source = transfer.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of a set by ppap_lib.generate")
    source.add_argument(
        "--labelled", action="store_true", help="the tier's training images; labels are not used"
    )
    transfer.add_argument("--first", type=int, help="use only so many of the images")
    transfer.add_argument("--rank", type=int, help="of the updates (default: the guide's preset)")
    transfer.add_argument("--temperature", type=float, default=0.25, help="of the teacher")
    supervised = commands.add_parser(
        "supervised", parents=[common], help="whole networks learn from labels"
    )
    supervised.add_argument("--rank", type=int, help="train updates of this rank instead")
    return parser


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; returns the summary."""
    chosen, device = tier(given.tier), devices.pick(given.device)
    schedule = chosen.schedule()
    intervals = Intervals(schedule.T, given.experts)
    transfers = given.kind == "transfer"
    whole = not transfers and given.rank is None
    made = distill.settings(
        given.preset or chosen.name,
        given.guide,
        whole,
        device,
        given.images,
        **options.settings(given),
    )
    task = Classification(given.temperature) if transfers else Classification()
    loss = (distill.Transfer if transfers else distill.Supervised)(
        schedule, intervals, task, shared_time=given.shared_time
    )
    real = not transfers or given.labelled
    images = data.require(chosen.name, "train") if real else generated(given.data)
    if transfers and given.first is not None:
        images = images.first(given.first)
    if images.shape != chosen.shape:
        raise data.DataError(f"{images.source} are {images.shape}, {chosen.name}'s {chosen.shape}")
    name = f"{chosen.name}/{given.guide}"
    trunk = zoo.load(name)
    size = sum(parameter.numel() for parameter in trunk.parameters())
    folder = given.folder or Path(
        "runs", "distill", f"{chosen.name}-{given.guide}-{given.kind}-{given.experts}"
    )
    targets = _teacher(name, device, images.pixels, folder) if transfers else images.labels
    if not whole:
        fresh = distill.updates(
            trunk, given.guide, intervals, given.rank, not given.no_scale, made.seed
        )
    elif given.no_scale:
        raise distill.DistillError("whole networks have no LoRA scale: leave out --no-scale")
    else:
        fresh = experts.full_copies(trunk, intervals)
    with options.Bar(given.quiet, f"{name}, {given.experts} experts", made.fraction) as on_log:
        trained, figures = distill.fit(
            fresh,
            loss,
            images.pixels,
            targets,
            made,
            folder,
            sequential=given.warm_start,
            device=device,
            resume=given.resume,
            on_start=print,
            on_log=on_log,
        )
    file = folder / EXPERTS
    experts.save(trained, file, name, torch.float16)
    summary = {
        "tier": chosen.name,
        "guide": given.guide,
        "kind": given.kind,
        "experts": given.experts,
        "rank": trained.bank.members[0].plan.rank if isinstance(trained.bank, Adapted) else None,
        "temperature": given.temperature if transfers else None,
        "released": {
            "warm start": given.warm_start,
            "shared time": given.shared_time,
            "no scale": given.no_scale,
        },
        "trunk": name,
        "trunk_sha256": zoo.card(name).sha256,
        "trunk_parameters": size,
        "share_of_trunk": round(figures["parameters"] / size, 4),
        "source": images.source,
        **figures,
        "quality": _quality(trained, chosen.name, schedule, device),
        "file": file.name,
        "sha256": weights.sha256(file),
    }
    atomic.write(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _teacher(name: str, device: torch.device, pixels: Tensor, folder: Path) -> Tensor:
    """The teacher's logits, kept in `folder`, so that a resumed run reads the very same ones."""
    path = folder / TEACHER
    made_from = {
        "teacher": f"{name} {zoo.card(name).sha256}",
        "images": f"{len(pixels)}, crc32 {crc32(pixels):08x}",
    }
    if not path.is_file():
        logits = distill.teacher_logits(zoo.load(name, device), pixels)
        weights.save({"logits": logits}, path, metadata=made_from)
    elif (found := weights.metadata(path)) != made_from:
        raise distill.DistillError(
            f"{folder} is another run's, by its {path.name}: made from {found}, not {made_from}. "
            f"Use another folder"
        )
    return weights.read(path)["logits"]


def _quality(
    trained: experts.Experts, name: str, schedule: Schedule, device: torch.device
) -> dict[str, Any]:
    """How the experts read held-out images, every hundredth timestep."""
    test = data.test_images(name)
    test = test.per_class(min(HELD_OUT, int(test.labels.bincount().min()))).to(device)
    readings = distill.accuracy_by_t(
        trained, test.images(), test.labels, schedule, range(0, schedule.T, 100)
    )
    return {"images": test.source, "readings": [asdict(reading) for reading in readings]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return commands.run(_parser(), lambda given: in_words(train(given)), arguments)


if __name__ == "__main__":
    sys.exit(main())
