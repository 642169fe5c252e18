"""The command line: `python -m ppap_lib distill transfer --guide resnet18 --data FOLDER`.

Leaves experts.safetensors, which `experts.read` reads, and summary.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppap_lib import zoo
from ppap_lib.commands import options, shell
from ppap_lib.device import pick_device
from ppap_lib.distill.experts import ExpertTraining, train_experts
from ppap_lib.distill.fitting import PRESETS, UPDATES, settings
from ppap_lib.errors import TrainingError
from ppap_lib.training.fit import in_words
from ppap_lib.training.settings import Settings
from ppap_lib.zoo.tiers import tier


def _parser() -> argparse.ArgumentParser:
    common = options.common()
    add = common.add_argument
    add("--guide", choices=tuple(UPDATES), required=True, help="the clean network to start from")
    add("--experts", type=int, default=5, help="number of intervals (default: %(default)s)")
    add("--images", type=int, help="budget in images, of all experts together")
    add("--preset", choices=tuple(PRESETS), help="settings to start from (default: the tier's)")
    add("--warm-start", action="store_true", help="one expert after another, as released")
    add("--shared-time", action="store_true", help="one timestep for the whole batch")
    add("--no-scale", action="store_true", help="updates without the LoRA scale, as released")
    parser = argparse.ArgumentParser(
        prog="python -m ppap_lib distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    transfer = kinds.add_parser(
        "transfer", parents=[common], help="low-rank updates learn from the clean network"
    )
    source = transfer.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, dest="generated", help="folder of a set by ppap_lib.samplers.draw"
    )
    source.add_argument(
        "--labelled", action="store_true", help="the tier's training images; labels are not used"
    )
    transfer.add_argument("--first", type=int, help="use only so many of the images")
    transfer.add_argument("--rank", type=int, help="of the updates (default: the guide's preset)")
    transfer.add_argument("--temperature", type=float, default=0.25, help="of the teacher")
    supervised = kinds.add_parser(
        "supervised", parents=[common], help="whole networks learn from labels"
    )
    supervised.add_argument("--rank", type=int, help="train updates of this rank instead")
    return parser


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; returns the summary."""
    if given.guide not in (guides := zoo.guides(tier(given.tier).name)):
        raise TrainingError(f"{given.tier} has no guide {given.guide!r}: use {' or '.join(guides)}")
    whole = given.kind == "supervised" and given.rank is None
    training = ExpertTraining(**options.fields_of(ExpertTraining, given), whole=whole)
    device = pick_device(given.device)
    made = settings(
        given.preset or tier(given.tier).name,
        given.guide,
        training.whole,
        device,
        given.images,
        **options.fields_of(Settings, given),
    )
    folder = given.folder or Path(
        "runs", "distill", f"{given.tier}-{given.guide}-{given.kind}-{given.experts}"
    )
    title = f"{training.backbone}, {given.experts} experts"
    with options.bar(given.quiet, title, made.fraction) as on_log:
        return train_experts(
            training,
            made,
            folder,
            device=device,
            resume=given.resume,
            on_start=print,
            on_log=on_log,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return shell.run(_parser(), lambda given: in_words(train(given)), arguments)


if __name__ == "__main__":
    sys.exit(main())
