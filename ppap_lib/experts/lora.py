"""Low-rank updates of a backbone: small trained tensors that stand in for some of its own.

An `LoraUpdate` holds, by the backbone's own names, low-rank factors of some Linear and Conv2d weights
(LoRA, Hu et al. 2021) and copies of the small tensors that are trained in full: biases, norms'
affines, and all running statistics. `update(backbone, x)` evaluates the backbone with it, trainable;
`merge` folds it into a network that costs what the backbone costs. Neither writes to the backbone, so
any number of updates share one, and taking one away leaves no rounding behind.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ppap_lib.errors import InputError

Selection = str | Iterable[str] | Callable[[str, Any], bool]
"""Exact names, globs ("*.attn.qkv"; a star also matches dots), or a predicate (name, item)."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class LoraConfig:
    """What an update holds, by the backbone's names.

    `layers` get low-rank factors of rank `rank`, scaled by `alpha / rank`; `trained` parameters
    are trained in full. Made by `lora_config`, which resolves patterns.
    """

    layers: tuple[str, ...]
    trained: tuple[str, ...]
    rank: int
    alpha: float

    def __post_init__(self):
        if self.rank < 1:
            raise InputError(f"rank must be at least 1, not {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"alpha must be positive, not {self.alpha}")
        if both := {f"{layer}.weight" for layer in self.layers} & set(self.trained):
            raise InputError(
                f"{', '.join(sorted(both))} cannot be trained in full and have low-rank factors"
            )

    @property
    def scale(self) -> float:
        """The factor of B @ A."""
        return self.alpha / self.rank

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LoraConfig":
        """The configuration that `to_json` wrote."""
        try:
            entries = json.loads(text)
            lists = {key: tuple(entries[key]) for key in ("layers", "trained")}
            return cls(**(entries | lists))
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"not a LoRA configuration ({error!r}): {text[:80]}") from None


def lora_config(
    backbone: nn.Module, layers: Selection, rank: int, alpha: float, trained: Selection = ()
) -> LoraConfig:
    """The configuration for `backbone`: factors for the selected `layers`, full copies of `trained`.

    `layers` selects among the backbone's modules, `trained` among its parameters. A predicate or a
    glob over modules takes the Linear and Conv2d layers it matches; a name or glob that matches
    nothing, a layer of another kind named exactly, and a depthwise convolution are errors.
    """
    if not (isinstance(layers, str) or callable(layers)):
        layers = tuple(layers)  # read twice below
    modules = dict(backbone.named_modules())
    adaptable = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    exact = {layers} if isinstance(layers, str) else set() if callable(layers) else {*layers}
    named = {name: modules[name] for name in modules.keys() & exact}
    chosen = _select(adaptable | named, layers, "layer")
    for name in chosen:
        factor_shapes(modules[name], rank, name)
    full = _select(dict(backbone.named_parameters()), trained, "parameter")
    order = {name: i for i, name in enumerate(modules)}
    return LoraConfig(tuple(sorted(chosen, key=order.__getitem__)), full, rank, float(alpha))


def resnet_lora(backbone: nn.Module, rank: int = 16, alpha: float = 8.0) -> LoraConfig:
    """PPAP's configuration for a ResNet: the stem, conv1 and conv2 of every block, and all norms."""
    return lora_config(backbone, ("*conv1", "*conv2"), rank, alpha, norm_affines(backbone))


def vit_lora(backbone: nn.Module, rank: int = 32, alpha: float = 8.0) -> LoraConfig:
    """PPAP's configuration for a vision transformer: qkv and proj of every block, and all biases."""
    return lora_config(backbone, ("*.attn.qkv", "*.attn.proj"), rank, alpha, biases(backbone))


def efficientnet_lora(backbone: nn.Module, rank: int = 16, alpha: float = 8.0) -> LoraConfig:
    """For timm's EfficientNets, as PPAP's for a ResNet: stem, head, 1x1 convolutions, all norms.

    The depthwise convolutions between them stay frozen: see `factor_shapes`. So do those of
    squeeze-and-excitation, which the Lite ones lack.
    """
    layers = ("*conv_stem", "*conv_pw", "*conv_pwl", "*conv_head")
    return lora_config(backbone, layers, rank, alpha, norm_affines(backbone))


def biases(backbone: nn.Module) -> tuple[str, ...]:
    """The names of all biases of the backbone, norms' among them."""
    return tuple(n for n, _ in backbone.named_parameters() if n.rpartition(".")[2] == "bias")


def norm_affines(backbone: nn.Module) -> tuple[str, ...]:
    """The names of the weights and biases of all norms of the backbone."""
    norms = [(n, m) for n, m in backbone.named_modules() if isinstance(m, _NORMS)]
    return tuple(
        _join(name, leaf) for name, module in norms for leaf, _ in module.named_parameters()
    )


def statistics(backbone: nn.Module) -> tuple[str, ...]:
    """The names of all running statistics of the backbone's norms."""
    return tuple(n for n, _ in backbone.named_buffers() if n.rpartition(".")[2] in _STATISTICS)


def factor_shapes(
    layer: nn.Module, rank: int, name: str = "layer"
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of (A, B), such that (B @ A) viewed as the weight's shape updates it.

    loralib's convention: A [r, in] and B [out, r] for a Linear; A [r*k, in*k] and
    B [out/groups*k, r*k] for a k x k convolution (k the shorter side of other kernels).
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
    """One update of `backbone` by `config`; at first it changes nothing (B = 0).

    Its parameters are what is trained. Its state dict has the backbone's names: `conv1.lora_A`,
    `conv1.lora_B`, `bn1.weight`, `bn1.running_mean`, ... All running statistics belong to the
    update, so that training one never writes to the backbone.
    """

    def __init__(self, backbone: nn.Module, config: LoraConfig):
        super().__init__()
        self.config = config
        for name in (*(f"{layer}.weight" for layer in config.layers), *config.trained):
            tensor = _found(backbone.get_parameter, name)
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
        """What is added to the layer's weight, as a matrix: alpha/r * B @ A."""
        a, b = (self.get_parameter(f"{layer}.lora_{factor}") for factor in "AB")
        return self.config.scale * (b @ a)

    def tensors(self, backbone: nn.Module) -> dict[str, Tensor]:
        """What stands in for the backbone's tensors, by their names; differentiable."""
        changed = {}
        for layer in self.config.layers:
            weight = backbone.get_parameter(f"{layer}.weight")
            changed[f"{layer}.weight"] = weight + self.delta(layer).view(weight.shape)
        own = {name: self.get_parameter(name) for name in self.config.trained}
        return changed | own | {name: self.get_buffer(name) for name in self.statistics}

    def forward(self, backbone: nn.Module, *inputs: Any) -> Any:
        """The backbone evaluated with this update, in the backbone's train or eval mode.

        In train mode norms move this update's statistics, not the backbone's.
        """
        return functional_call(backbone, self.tensors(backbone), inputs)


@torch.inference_mode(mode=False)  # or what guides later could not differentiate through it
@torch.no_grad()
def merge(backbone: nn.Module, update: LoraUpdate) -> nn.Module:
    """A network of the backbone's class, in eval mode, with the update folded in.

    It shares with the backbone and the update all tensors but the changed weights. Its state dict
    has the backbone's keys.
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


class _Merged(NamedTuple):
    """A merged network, and the tensors of the backbone and the update, with their versions then."""

    index: int
    network: nn.Module
    made_of: tuple[nn.Module, LoraUpdate]
    state: list[tuple[Tensor, int]]

    @classmethod
    def of(cls, backbone: nn.Module, update: LoraUpdate, index: int) -> "_Merged":
        return cls(index, merge(backbone, update), (backbone, update), _state(backbone, update))

    @property
    def current(self) -> bool:
        """Whether none of these tensors was written to, or replaced, since."""
        now = _state(*self.made_of)
        return len(now) == len(self.state) and all(
            then is here and before == after
            for (then, before), (here, after) in zip(self.state, now, strict=True)
        )


def _state(*modules: nn.Module) -> list[tuple[Tensor, int]]:
    """Tensors and versions; inference tensors, written to in inference mode only, count none."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


class LoraBank(nn.Module):
    """A frozen backbone and the updates attached to it, its `updates`.

    `run(k, x)` evaluates with update k, trainable; `merged(k)` is a plain network with update k
    folded in, of which one is kept at a time: asking for another switches.
    """

    def __init__(self, backbone: nn.Module, updates: Iterable[LoraUpdate] = ()):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.updates = nn.ModuleList(updates)
        self._merged: _Merged | None = None

    def __len__(self) -> int:
        return len(self.updates)

    def __getitem__(self, index: int) -> LoraUpdate:
        return self.updates[index]

    def __iter__(self) -> Iterator[LoraUpdate]:
        return iter(self.updates)

    def run(self, index: int, x: Tensor) -> Any:
        """The output for `x` with update `index`, differentiable in its parameters."""
        return self.updates[index](self.backbone, x)

    def merged(self, index: int) -> nn.Module:
        """A network with update `index` folded in, in eval mode: use it until the next call.

        It is made when the index, the update or the backbone has changed since the last call, or
        between train and eval mode. Call `unmerge` after writing to their `.data` or stepping a
        fused optimiser otherwise, which leave no trace.
        """
        if self._merged is None or self._merged.index != index or not self._merged.current:
            self.unmerge()  # before the next is made, so that there are never two
            self._merged = _Merged.of(self.backbone, self.updates[index], index)
        return self._merged.network

    def unmerge(self) -> None:
        """Forget the merged network: what is left are the backbone and the updates."""
        self._merged = None

    def train(self, mode: bool = True) -> "LoraBank":
        self.unmerge()  # training by a fused optimiser leaves no trace
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.unmerge()  # its tensors would stay behind on the old device
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's tensors count their versions anew: they could pass for those of the network.
        return {**self.__dict__, "_merged": None}


def _select(items: Mapping[str, Any], wanted: Selection, what: str) -> tuple[str, ...]:
    if callable(wanted):
        chosen = tuple(name for name, item in items.items() if wanted(name, item))
        if not chosen:
            raise InputError(f"the predicate matches no {what}")
        return chosen
    patterns = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    matched = {p: [n for n in items if n == p or fnmatchcase(n, p)] for p in patterns}
    if unmatched := [pattern for pattern, names in matched.items() if not names]:
        raise InputError(
            f"no {what} matches {', '.join(map(repr, unmatched))}: there are "
            f"{', '.join(list(items)[:8])}{', ...' if len(items) > 8 else ''}"
        )
    chosen = {name for names in matched.values() for name in names}
    return tuple(name for name in items if name in chosen)


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


def _found(get: Callable[[str], nn.Parameter], name: str) -> nn.Parameter:
    try:
        return get(name)
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
