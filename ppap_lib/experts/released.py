"""The checkpoints of PPAP's authors (github.com/riiid/PPAP) as experts of ours.

In their files every expert is a full state dict `{k}_max{N}.ckpt`. Those of PPAP are of a wrapped
network: torchvision's ResNet50 under `resnet.`, timm's DeiT under `deit.classifier.`, whose adapted
layers keep their own weight in `.conv` or `.linear` beside `.lora_A` and `.lora_B`. The supervised
ones, multi-experts-5 and the single finetuned model, are plain networks: torchvision's names, or
timm's under `classifier.`.

Three traps. Their linear layer leaves alpha/r out, so it is read with scale 1; their convolution
applies it. Their students read pixels in [-1, 1] as they are, without ImageNet's normalisation:
give the bare backbone, not one that normalises. And their DeiT resizes what it reads to 224 pixels:
for images of another size give `Vision(deit, 224, 3)`, which does no more than that (by an
interpolation of its own).
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ppap_lib.errors import InputError, WeightsError
from ppap_lib.experts.bank import Experts, LoraBank, full_copies
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraConfig, LoraUpdate, biases, norm_affines
from ppap_lib.files import weights
from ppap_lib.networks.vision import Vision

_PREFIXES = ("resnet.", "deit.classifier.", "classifier.", "")


def released(
    states: Sequence[Mapping[str, Tensor]], backbone: nn.Module, T: int = 1000, alpha: float = 8.0
) -> Experts:
    """Make experts of the authors' state dicts, frozen and in evaluation mode.

    Parameters
    ----------
    states
        One for each expert, cleanest interval first.
    backbone
        The bare network (timm's resnet50 or deit_small_patch16_224, or torchvision's resnet50), or
        a `Vision` of it. Updates share it: it is filled from the first state dict and may be
        untrained. Whole networks are copies of it.
    T
        Number of training timesteps.
    alpha
        The authors' `lora_alpha`, which only convolutions use.

    Raises
    ------
    InputError
        If there are no state dicts.
    WeightsError
        If they are adapter files (which lack the weights of all that is frozen, and the shortcuts'
        norms, which are not), do not share a backbone, or are of another network.
    """
    if not states:
        raise InputError("no state dicts: give one per expert, the cleanest interval first")
    inside = "network." if isinstance(backbone, Vision) else ""
    sources = [_read(state, inside) for state in states]
    if any(source.layers != sources[0].layers for source in sources):
        raise WeightsError("the state dicts adapt different layers: they are not one set")
    for index, source in enumerate(sources):
        if missing := sorted(backbone.state_dict().keys() - source.tensors.keys()):
            raise WeightsError(
                f"state dict {index} lacks {len(missing)} of the backbone's tensors, {missing[0]} "
                f"among them: give the full state dict of a network like the backbone"
            )
    intervals = Intervals(T, len(sources))
    if sources[0].layers:
        experts = _updates(sources, backbone, intervals, alpha)
    else:
        experts = _copies(sources, backbone, intervals)
    return experts.eval().requires_grad_(False)


class _Source(NamedTuple):
    """A state dict by the backbone's names, and its adapted layers: name -> conv or linear."""

    tensors: dict[str, Tensor]
    layers: dict[str, str]


def _read(state: Mapping[str, Tensor], inside: str) -> _Source:
    """One state dict, of a network that the backbone holds under the name `inside`."""
    prefix = next(p for p in _PREFIXES if all(key.startswith(p) for key in state))
    bare = {inside + key.removeprefix(prefix): value for key, value in state.items()}
    own = (re.fullmatch(r"(.+)\.(conv|linear)\.weight", key) for key in bare)
    layers = {m[1]: m[2] for m in own if m and f"{m[1]}.lora_A" in bare}
    if not layers and any(key.endswith(".lora_A") for key in bare):
        raise WeightsError(
            "an adapter file, which holds low-rank factors and not the layers that they update: "
            "give the full state dict"
        )
    wrapped = {f"{layer}.{kind}": layer for layer, kind in layers.items()}

    def own_name(key: str) -> str:
        path, _, leaf = key.rpartition(".")
        return f"{wrapped[path]}.{leaf}" if path in wrapped else key

    return _Source({own_name(key): value for key, value in bare.items()}, layers)


def _copies(sources: Sequence[_Source], backbone: nn.Module, intervals: Intervals) -> Experts:
    """Multi-experts, or the single model: a whole network each."""
    experts = full_copies(backbone, intervals)
    for index, (network, source) in enumerate(zip(experts.bank, sources, strict=True)):
        weights.load(network, source.tensors, f"state dict {index}")
    return experts


def _updates(
    sources: Sequence[_Source], backbone: nn.Module, intervals: Intervals, alpha: float
) -> Experts:
    """PPAP's: one backbone, and an update each."""
    first, layers = sources[0]
    config = _config(backbone, first, layers, alpha)
    factors = {f"{layer}.lora_{factor}" for layer in config.layers for factor in "AB"}
    own = {key: value for key, value in first.items() if key not in factors}
    weights.load(backbone, own, "the checkpoint")
    updates = [
        _update(backbone, config, source.tensors, first, index)
        for index, source in enumerate(sources)
    ]
    return Experts(LoraBank(backbone, updates), intervals)


def _config(
    backbone: nn.Module, state: Mapping[str, Tensor], wrapped: Mapping[str, str], alpha: float
) -> LoraConfig:
    """The configuration of the authors' updates, the scale of their layers' kind in its alpha."""
    modules = {name: module for name, module in backbone.named_modules() if name in wrapped}
    if missing := sorted(wrapped.keys() - modules.keys()):
        raise WeightsError(f"the backbone has no layer {missing[0]}: the checkpoint is of another")
    if len(set(wrapped.values())) > 1:
        raise WeightsError("expected adapted convolutions or linear layers, not both")
    name, layer = next(iter(modules.items()))
    rows = len(state[f"{name}.lora_A"])  # rank, or rank * k for a k x k convolution
    if isinstance(layer, nn.Conv2d):
        # The shortcuts' norms keep their weights there; their statistics move all the same.
        return LoraConfig(
            tuple(modules), norm_affines(backbone), rows // min(layer.kernel_size), alpha
        )
    return LoraConfig(tuple(modules), biases(backbone), rows, float(rows))


def _update(
    backbone: nn.Module,
    config: LoraConfig,
    state: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    index: int,
) -> LoraUpdate:
    """One expert's update; what is frozen must be as in the first state dict."""
    try:
        update = LoraUpdate(backbone, config)
    except InputError as error:
        raise WeightsError(f"the checkpoint does not fit the backbone: {error}") from error
    own = update.state_dict().keys()
    for key in sorted(first.keys() - own):
        if not first[key].equal(state[key]):
            raise WeightsError(
                f"state dicts 0 and {index} differ in {key}, which PPAP freezes: they have "
                f"different backbones"
            )
    if missing := sorted(own - state.keys()):
        raise WeightsError(f"state dict {index} lacks {missing[0]}")
    weights.load(update, {key: state[key] for key in own}, f"state dict {index}")
    return update
