"""From a card to a network: untrained, and with a published file's weights under its keys."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ppap_lib.errors import WeightsError
from ppap_lib.networks import adm
from ppap_lib.zoo.cards import Card
from ppap_lib.zoo.tiers import tier


def untrained(card: Card) -> nn.Module:
    """Return the card's network with random weights; `WeightsError` if it says not how."""
    how = card.network
    if "trunk" in how:
        raise WeightsError(f"{card.name} is a set of experts: zoo.load loads it with its backbone")
    if not how.keys() & {"tier", "flags", "timm"}:
        raise WeightsError(
            f"card {card.name}: network needs 'tier', 'flags' or 'timm', not {list(how)}"
        )
    try:
        return _built(how)
    except Exception as error:  # whatever builders raise where foreign arguments lead them to
        raise WeightsError(
            f"card {card.name}: there is no network {dict(how)} ({type(error).__name__}: {error})"
        ) from error


def _built(how: Mapping) -> nn.Module:
    if "timm" in how:
        import timm

        return timm.create_model(how["timm"])
    if "flags" in how:
        return adm.from_flags(how["flags"])
    preset = tier(how["tier"])
    return preset.denoiser() if how["part"] == "denoiser" else preset.classifier(how["part"])


def renamed(card: Card, state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Return a file's state dict under the network's own keys.

    Raises `WeightsError` if the card's convention is unknown.
    """
    convention = card.network.get("keys")
    if convention is None:
        return state
    if convention not in _CONVENTIONS:
        raise WeightsError(f"card {card.name}: unknown key convention {convention!r}")
    return _CONVENTIONS[convention](state, network)


def _torchvision(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """timm's ResNets have torchvision's names; older files lack batch-norm's counters of batches,
    which evaluation does not read."""
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    return counters | dict(state)


def _efficientnet_lite(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """From EfficientNet-PyTorch's names to timm's.

    There, blocks are numbered through; timm numbers them within stages. A block without
    expansion has one convolution and norm fewer, so its norms are numbered from 1.
    """
    places = [
        f"blocks.{s}.{i}" for s, stage in enumerate(network.blocks) for i in range(len(stage))
    ]
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    plain = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    out = {}
    for key, value in state.items():
        module, *rest = key.split(".")
        if module == "_blocks":
            number, layer, leaf = rest
            has_expansion = f"_blocks.{number}._expand_conv.weight" in state
            layer = (expanded if has_expansion else plain)[layer]
            out[f"{places[int(number)]}.{layer}.{leaf}"] = value
        else:
            out[".".join([top[module], *rest])] = value
    return out


_CONVENTIONS: Mapping[str, Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]] = {
    "efficientnet_lite": _efficientnet_lite,
    "torchvision": _torchvision,
}
