"""The checkpoints of PPAP's authors (github.com/riiid/PPAP) as updates of one trunk.

There, every expert is a full state dict `{k}_max{N}.ckpt` of a wrapped network: torchvision's
ResNet50 under `resnet.`, timm's DeiT under `deit.classifier.`, whose adapted layers keep their
own weight in `.conv` or `.linear` beside `.lora_A` and `.lora_B`.

Two traps. Their linear layer leaves alpha/r out, so it is read with scale 1; their convolution
applies it. And their students read pixels in [-1, 1] as they are, without ImageNet's
normalisation: give the bare trunk, not one that normalises.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ppap_lib import weights
from ppap_lib.experts.routing import Experts, ExpertsError
from ppap_lib.networks.lora import Adapted, LoraError, Plan, Update, biases, norm_affines
from ppap_lib.schedule import Intervals

_PREFIXES = ("resnet.", "deit.classifier.")


def released(
    states: Sequence[Mapping[str, Tensor]], trunk: nn.Module, T: int = 1000, alpha: float = 8.0
) -> Experts:
    """Experts from the authors' state dicts, cleanest interval first, in evaluation mode.

    `trunk` is the bare network (timm's resnet50 or deit_small_patch16_224, or torchvision's
    resnet50); it is filled from the first state dict and may be untrained. `alpha` is their
    `lora_alpha`, which only convolutions use.

    Raises `ExpertsError` where the state dicts are adapter files (they lack the norms of the
    shortcuts, without which the network cannot be restored) or do not share a trunk, and
    `WeightsError` where they are of another network.
    """
    if not states:
        raise ExpertsError("no state dicts: give one per expert, the cleanest interval first")
    plain, wrapped = zip(*map(_unwrapped, states), strict=True)
    if any(layers != wrapped[0] for layers in wrapped):
        raise ExpertsError("the state dicts adapt different layers: they are not one set")
    plan = _plan(trunk, plain[0], wrapped[0], alpha)
    for index, state in enumerate(plain):
        if missing := sorted(trunk.state_dict().keys() - state.keys()):
            raise ExpertsError(
                f"state dict {index} lacks {len(missing)} of the trunk's tensors, {missing[0]} "
                f"among them: give the full state dict, not an adapter file"
            )
    factors = {f"{layer}.lora_{factor}" for layer in plan.layers for factor in "AB"}
    own = {key: value for key, value in plain[0].items() if key not in factors}
    weights.load(trunk, own, "the checkpoint")
    updates = [_update(trunk, plan, state, plain[0], i) for i, state in enumerate(plain)]
    experts = Experts(Adapted(trunk, updates), Intervals(T, len(updates)))
    return experts.eval().requires_grad_(False)


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict under the trunk's names, and its adapted layers: name -> conv or linear."""
    prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
    if not state or prefix is None:
        raise ExpertsError(
            f"not a state dict of PPAP's authors: all keys should begin with "
            f"{' or '.join(_PREFIXES)}"
        )
    bare = {key.removeprefix(prefix): value for key, value in state.items()}
    inner = (re.fullmatch(r"(.+)\.(conv|linear)\.weight", key) for key in bare)
    layers = {m[1]: m[2] for m in inner if m and f"{m[1]}.lora_A" in bare}
    if not layers:
        raise ExpertsError("the state dict holds no low-rank factors: expected *.lora_A, *.lora_B")
    inside = {f"{layer}.{kind}": layer for layer, kind in layers.items()}

    def own_name(key: str) -> str:
        path, _, leaf = key.rpartition(".")
        return f"{inside[path]}.{leaf}" if path in inside else key

    return {own_name(key): value for key, value in bare.items()}, layers


def _plan(
    trunk: nn.Module, state: Mapping[str, Tensor], wrapped: Mapping[str, str], alpha: float
) -> Plan:
    """The plan of the authors' updates, the scale of their layers' kind in its alpha."""
    modules = {name: module for name, module in trunk.named_modules() if name in wrapped}
    if missing := sorted(wrapped.keys() - modules.keys()):
        raise ExpertsError(f"the trunk has no layer {missing[0]}: the checkpoint is of another")
    if len(set(wrapped.values())) > 1:
        raise ExpertsError("expected adapted convolutions or linear layers, not both")
    name, layer = next(iter(modules.items()))
    rows = len(state[f"{name}.lora_A"])  # rank, or rank * k for a k x k convolution
    if isinstance(layer, nn.Conv2d):
        # The shortcuts' norms keep their weights there; their statistics move all the same.
        return Plan(tuple(modules), norm_affines(trunk), rows // min(layer.kernel_size), alpha)
    return Plan(tuple(modules), biases(trunk), rows, float(rows))


def _update(
    trunk: nn.Module,
    plan: Plan,
    state: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    index: int,
) -> Update:
    """One expert's update; what is frozen must be as in the first state dict."""
    try:
        update = Update(trunk, plan)
    except LoraError as error:
        raise ExpertsError(f"the checkpoint does not fit the trunk: {error}") from error
    own = update.state_dict().keys()
    for key in sorted(first.keys() - own):
        if not first[key].equal(state[key]):
            raise ExpertsError(
                f"state dicts 0 and {index} differ in {key}, which PPAP freezes: they have "
                f"different trunks"
            )
    if missing := sorted(own - state.keys()):
        raise ExpertsError(f"state dict {index} lacks {missing[0]}")
    weights.load(update, {key: state[key] for key in own}, f"state dict {index}")
    return update
