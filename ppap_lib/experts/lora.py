"""Low-rank updates of a backbone: small trained tensors that stand in for some of its own.

A `LoraUpdate` holds, by the backbone's own names, low-rank factors of some Linear and Conv2d
weights (LoRA, Hu et al. 2021) and copies of the small tensors that are trained in full: biases,
norms' affines, and all running statistics. `update(backbone, x)` evaluates the backbone with it,
trainable; `merge` folds it into a network that costs what the backbone costs. Neither writes to the
backbone, so any number of updates share one, and taking one away leaves no rounding behind.

>>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
>>> config = lora_config(backbone, "2", rank=2, alpha=4.0, trained="*.bias")
>>> update, x = LoraUpdate(backbone, config), torch.ones(1, 3, 4, 4)
>>> sum(parameter.numel() for parameter in update.parameters())  # 2 * (32 + 10) and 8 + 10
102
>>> torch.equal(update(backbone, x), merge(backbone, update)(x))
True
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ppap_lib.errors import InputError
from ppap_lib.parameters import real, whole

Selection = str | Iterable[str] | Callable[[str, Any], bool]
"""Exact names, globs ("*.attn.qkv"; a star also matches dots), or a predicate (name, item)."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class LoraConfig:
    """Names of the backbone's tensors that an update holds; `lora_config` makes it of patterns.

    Parameters
    ----------
    layers
        Layers whose weight gets low-rank factors.
    trained
        Parameters that are trained in full.
    rank
        Rank of the factors, at least 1.
    alpha
        Positive; the factors' product is scaled by `alpha / rank`.

    Raises
    ------
    InputError
        For another rank or alpha, or a weight that is in both lists.
    """

    layers: tuple[str, ...]
    trained: tuple[str, ...]
    rank: int
    alpha: float

    def __post_init__(self):
        for names in (self.layers, self.trained):
            if not (isinstance(names, tuple | list) and all(isinstance(n, str) for n in names)):
                raise InputError(f"layers and trained are tuples of names, not {names!r}")
        if real("alpha", self.alpha) <= 0:
            raise InputError(f"alpha must be positive, not {self.alpha}")
        plain = {
            "layers": tuple(self.layers),
            "trained": tuple(self.trained),
            "rank": whole("rank", self.rank, 1),
            "alpha": float(self.alpha),
        }
        for name, value in plain.items():  # of numpy's numbers and lists, which JSON has not
            object.__setattr__(self, name, value)
        if both := {f"{layer}.weight" for layer in self.layers} & set(self.trained):
            raise InputError(
                f"{', '.join(sorted(both))} cannot be trained in full and have low-rank factors"
            )

    @property
    def scale(self) -> float:
        """The factor of B @ A."""
        return self.alpha / self.rank

    def to_json(self) -> str:
        """Return the configuration as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LoraConfig":
        """Return the configuration that `to_json` wrote; raise `InputError` for other text."""
        try:
            entries = json.loads(text)
            lists = {key: tuple(entries[key]) for key in ("layers", "trained")}
            return cls(**(entries | lists))
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"not a LoRA configuration ({error!r}): {text[:80]}") from None


def lora_config(
    backbone: nn.Module, layers: Selection, rank: int, alpha: float, trained: Selection = ()
) -> LoraConfig:
    """Resolve patterns into the configuration of updates of one backbone.

    Parameters
    ----------
    backbone
        The network.
    layers
        Selects among its modules. A predicate or a glob takes the Linear and Conv2d layers that it
        matches.
    rank, alpha
        As for `LoraConfig`.
    trained
        Selects among its parameters.

    Raises
    ------
    InputError
        For a name or glob that matches nothing, a layer of another kind named exactly, or a
        depthwise convolution.
    """
    if not (isinstance(layers, str) or callable(layers)):
        layers = tuple(layers)  # read twice below
    modules = dict(backbone.named_modules())
    adaptable = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    exact = {layers} if isinstance(layers, str) else set() if callable(layers) else {*layers}
    named = {name: modules[name] for name in modules.keys() & exact}
    names = _select(adaptable | named, layers, "layer")
    rank = whole("rank", rank, 1)
    for name in names:
        factor_shapes(modules[name], rank, name)
    full = _select(dict(backbone.named_parameters()), trained, "parameter")
    order = {name: i for i, name in enumerate(modules)}
    return LoraConfig(tuple(sorted(names, key=order.__getitem__)), full, rank, alpha)


def resnet_lora(backbone: nn.Module, rank: int = 16, alpha: float = 8.0) -> LoraConfig:
    """Return PPAP's configuration for a ResNet: stem, conv1 and conv2 of every block, all norms.

    Parameters
    ----------
    backbone
        A ResNet of timm or torchvision.
    rank, alpha
        As for `LoraConfig`; by default the paper's for ResNet50.
    """
    return lora_config(backbone, ("*conv1", "*conv2"), rank, alpha, norm_affines(backbone))


def vit_lora(backbone: nn.Module, rank: int = 32, alpha: float = 8.0) -> LoraConfig:
    """Return PPAP's configuration for a vision transformer: every qkv and proj, and all biases.

    Parameters
    ----------
    backbone
        A vision transformer of timm.
    rank, alpha
        As for `LoraConfig`; by default the paper's for DeiT-S.
    """
    return lora_config(backbone, ("*.attn.qkv", "*.attn.proj"), rank, alpha, biases(backbone))


def efficientnet_lora(backbone: nn.Module, rank: int = 16, alpha: float = 8.0) -> LoraConfig:
    """Return a configuration for timm's EfficientNets: stem, head, 1x1 convolutions, all norms.

    It follows PPAP's for a ResNet. The depthwise convolutions stay frozen, see `factor_shapes`, and
    so do those of squeeze-and-excitation, which the Lite networks lack.

    Parameters
    ----------
    backbone
        An EfficientNet of timm.
    rank, alpha
        As for `LoraConfig`.
    """
    layers = ("*conv_stem", "*conv_pw", "*conv_pwl", "*conv_head")
    return lora_config(backbone, layers, rank, alpha, norm_affines(backbone))


def biases(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of all biases of the backbone, norms' among them."""
    return tuple(n for n, _ in backbone.named_parameters() if n.rpartition(".")[2] == "bias")


def norm_affines(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the weights and biases of all norms of the backbone."""
    norms = [(n, m) for n, m in backbone.named_modules() if isinstance(m, _NORMS)]
    return tuple(
        f"{name}.{leaf}" if name else leaf
        for name, module in norms
        for leaf, _ in module.named_parameters()
    )


def statistics(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of all running statistics of the backbone's norms."""
    return tuple(n for n, _ in backbone.named_buffers() if n.rpartition(".")[2] in _STATISTICS)


def factor_shapes(
    layer: nn.Module, rank: int, name: str = "layer"
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of A and B, such that B @ A viewed as the weight's shape updates it.

    These are loralib's: A [r, in] and B [out, r] for a Linear; A [r*k, in*k] and
    B [out/groups*k, r*k] for a k x k convolution (k the shorter side of other kernels).

    Parameters
    ----------
    layer
        A Linear or a Conv2d.
    rank
        The r above.
    name
        What errors call the layer.

    Raises
    ------
    InputError
        For a layer of another kind, or a depthwise convolution, whose update would be larger than
        the layer itself.
    """
    if isinstance(layer, nn.Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    if not isinstance(layer, nn.Conv2d):
        raise InputError(f"{name} is a {type(layer).__name__}: expected a Linear or a Conv2d")
    if layer.groups > 1 and layer.groups == layer.in_channels:
        raise InputError(
            f"{name} is a depthwise convolution, whose low-rank update is larger than the layer "
            f"itself: leave it frozen"
        )
    height, width = layer.kernel_size
    inner = rank * min(height, width)
    rows = layer.out_channels // layer.groups * height
    return (inner, layer.in_channels * width), (rows, inner)


class LoraUpdate(nn.Module):
    """One update of a backbone, which at first changes nothing (B = 0).

    Its parameters are what is trained. Its state dict has the backbone's names: `conv1.lora_A`,
    `conv1.lora_B`, `bn1.weight`, `bn1.running_mean`, ... All running statistics belong to the
    update, so that training one never writes to the backbone.

    Parameters
    ----------
    backbone
        The network that is updated; it is read here, and not kept.
    config
        What of it.

    Raises
    ------
    InputError
        If the configuration names what the backbone lacks, or a tensor that two layers share.
    """

    def __init__(self, backbone: nn.Module, config: LoraConfig):
        super().__init__()
        self.config = config
        for name in (*(f"{layer}.weight" for layer in config.layers), *config.trained):
            tensor = _parameter(backbone, name)
            if sum(tensor is p for m in backbone.modules() for p in m._parameters.values()) > 1:
                raise InputError(
                    f"{name} is another layer's, too: an update of it would change both when it "
                    f"is run and one when it is merged; leave it frozen"
                )
        for name in config.layers:
            weight = backbone.get_parameter(f"{name}.weight")
            shape_a, shape_b = factor_shapes(backbone.get_submodule(name), config.rank, name)
            a = nn.Parameter(weight.new_empty(shape_a))
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            _hold(self, f"{name}.lora_A", a)
            _hold(self, f"{name}.lora_B", nn.Parameter(weight.new_zeros(shape_b)))
        for name in config.trained:
            _hold(self, name, nn.Parameter(backbone.get_parameter(name).detach().clone()))
        self.statistics = statistics(backbone)
        for name in self.statistics:
            _hold(self, name, backbone.get_buffer(name).clone())

    def delta(self, layer: str) -> Tensor:
        """Return what is added to the layer's weight, as a matrix: alpha/r * B @ A."""
        a, b = (self.get_parameter(f"{layer}.lora_{factor}") for factor in "AB")
        return self.config.scale * (b @ a)

    def tensors(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that stand in for the backbone's, by its names; differentiable."""
        changed = {}
        for layer in self.config.layers:
            weight = backbone.get_parameter(f"{layer}.weight")
            changed[f"{layer}.weight"] = weight + self.delta(layer).view(weight.shape)
        own = {name: self.get_parameter(name) for name in self.config.trained}
        return changed | own | {name: self.get_buffer(name) for name in self.statistics}

    def forward(self, backbone: nn.Module, *inputs: Any) -> Any:
        """Return the backbone's output for the `inputs`, with this update.

        It is in the backbone's train or eval mode; in train mode norms move this update's
        statistics, not the backbone's.
        """
        return functional_call(backbone, self.tensors(backbone), inputs)


@torch.inference_mode(mode=False)  # or what guides later could not differentiate through it
@torch.no_grad()
def merge(backbone: nn.Module, update: LoraUpdate) -> nn.Module:
    """Return a network of the backbone's class, in eval mode, with the update folded in.

    It shares all tensors but the changed weights with the two, and has the backbone's keys in its
    state dict.

    Parameters
    ----------
    backbone
        The network that the update was made for.
    update
        The update of it.
    """
    # A deep copy that meets the tensors in its memo copies the modules around them only.
    tensors = (*backbone.parameters(), *backbone.buffers())
    network = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    for name, tensor in update.tensors(backbone).items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        is_parameter = leaf in module._parameters
        setattr(module, leaf, nn.Parameter(tensor.detach(), False) if is_parameter else tensor)
    return network.eval()


def _select(items: Mapping[str, Any], wanted: Selection, what: str) -> tuple[str, ...]:
    """The names of the items that the selection takes, in the items' order."""
    if callable(wanted):
        matches = tuple(name for name, item in items.items() if wanted(name, item))
        if not matches:
            raise InputError(f"the predicate matches no {what}")
        return matches
    patterns = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    matched = {p: [n for n in items if n == p or fnmatchcase(n, p)] for p in patterns}
    if unmatched := [pattern for pattern, names in matched.items() if not names]:
        raise InputError(
            f"no {what} matches {', '.join(map(repr, unmatched))}: there are "
            f"{', '.join(list(items)[:8])}{', ...' if len(items) > 8 else ''}"
        )
    union = {name for names in matched.values() for name in names}
    return tuple(name for name in items if name in union)


def _parameter(backbone: nn.Module, name: str) -> nn.Parameter:
    """The backbone's parameter of this name, or the error that it has none."""
    try:
        return backbone.get_parameter(name)
    except AttributeError:
        raise InputError(
            f"the backbone has no parameter {name}: the configuration is another's"
        ) from None


def _hold(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register the tensor under a dotted name, in empty modules along the path."""
    *path, leaf = name.split(".")
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)
