"""A zoo for tests: all cards in a folder of its own, this project's networks untrained."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ppap_lib import zoo
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.zoo.cards import Card, write

PRESETS = ("fashion", "tin10")
TIERS = [f"{tier}/{net}" for tier in PRESETS for net in ("denoiser", "judge", "resnet18", "vit")]
SETS = ("single", "multi5", "ppap5", "ppap10")
EXPERTS = [
    f"{tier}/{kind}-{guide}" for tier in PRESETS for kind in SETS for guide in ("resnet18", "vit")
] + ["tin10/ppap5-lite0"]
EXPERTS += [f"imagenet256/{kind}-{guide}" for kind in SETS for guide in ("resnet50", "deit_s")]


def untrained_zoo(folder: Path) -> Path:
    """The cards in `folder`, those of this project's networks as before any training."""
    shutil.copytree(ASSETS / "cards", folder / "cards")
    for name in TIERS + EXPERTS:
        blank = replace(zoo.card(name), sha256=None, bytes=None, images_seen=None, metrics={})
        write(replace(blank, note="its training has not finished"), folder)
    return folder


def ship(name: str, network: nn.Module, folder: Path, **changes) -> Card:
    """The network's weights under their card of that folder, and the card."""
    card = zoo.card(name, folder)
    path = folder / "weights" / card.file["asset"]
    weights.save(network.state_dict(), path, torch.float16)
    card = replace(card, **{"sha256": weights.sha256(path), "note": "", **changes})
    write(card, folder)
    return card
