"""The ADM networks: U-Net, upsampler and noisy classifier (Dhariwal & Nichol 2021, appendix).

Argument names and state-dict keys are those of the public code, so its checkpoints load as
they are. Every switch of the paper's architecture ablation (table 1) is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.errors import InputError
from ppap_lib.networks.blocks import (
    Architecture,
    AttentionPool,
    Downsample,
    TimestepSequential,
    Upsample,
    count_heads,
    group_norm,
    timestep_embedding,
    zeroed,
)


class _Encoder(nn.Module):
    """What the U-Net and the classifier share: time embedding, descending path, middle."""

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float,
        channel_mult: Sequence[float],
        conv_resample: bool,
        num_heads: int,
        num_head_channels: int,
        use_scale_shift_norm: bool,
        resblock_updown: bool,
        use_new_attention_order: bool,
        rescale_residuals: bool,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.model_channels = model_channels
        self.emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, self.emb_channels),
            nn.SiLU(),
            nn.Linear(self.emb_channels, self.emb_channels),
        )

        self.style = style = Architecture(
            self.emb_channels,
            dropout,
            num_heads,
            num_head_channels,
            use_scale_shift_norm,
            use_new_attention_order,
            rescale_residuals,
        )
        channels = int(channel_mult[0] * model_channels)
        self.input_blocks = nn.ModuleList(
            [TimestepSequential(nn.Conv2d(in_channels, channels, 3, padding=1))]
        )
        self.skip_channels = [channels]
        factor = 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                out = int(mult * model_channels)
                layers: list[nn.Module] = [style.block(channels, out)]
                channels = out
                if factor in attention_resolutions:
                    layers.append(style.attention(channels))
                self._descend(TimestepSequential(*layers), channels)
            if level < len(channel_mult) - 1:
                down = (
                    style.block(channels, channels, Downsample(channels, conv=False))
                    if resblock_updown
                    else Downsample(channels, conv_resample)
                )
                self._descend(TimestepSequential(down), channels)
                factor *= 2
        self.middle_block = TimestepSequential(
            style.block(channels, channels),
            style.attention(channels),
            style.block(channels, channels),
        )
        self.factor, self.channels = factor, channels

    def _descend(self, stage: TimestepSequential, channels: int) -> None:
        self.input_blocks.append(stage)
        self.skip_channels.append(channels)

    def _embed(self, x: Tensor, t: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise InputError(
                f"{type(self).__name__} takes [B, {self.in_channels}, H, W], not {list(x.shape)}"
            )
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise InputError(
                f"height and width must be multiples of {self.factor}, not {list(x.shape[2:])}"
            )
        if t.shape != x.shape[:1]:
            raise InputError(f"one timestep per image: t must be [{len(x)}], not {list(t.shape)}")
        dtype = self.time_embed[0].weight.dtype
        return self.time_embed(timestep_embedding(t, self.model_channels).to(dtype))


class UNet(_Encoder):
    """The ADM U-Net: `(x [B,C,H,W], t [B], y [B] or None) -> [B, out_channels, H, W]`.

    `attention_resolutions` are downsampling factors (1 = full size); `num_head_channels`
    overrides `num_heads`; `num_heads_upsample` (-1: the same) is for the ascending path.
    `resblock_updown` resamples in residual blocks, `rescale_residuals` multiplies their sums
    by sqrt(1/2), `use_scale_shift_norm` is AdaGN. `t` may be real.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        num_classes: int | None = None,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        rescale_residuals: bool = False,
    ):
        super().__init__(
            in_channels,
            model_channels,
            num_res_blocks,
            attention_resolutions,
            dropout,
            channel_mult,
            conv_resample,
            num_heads,
            num_head_channels,
            use_scale_shift_norm,
            resblock_updown,
            use_new_attention_order,
            rescale_residuals,
        )
        self.out_channels = out_channels
        self.num_classes = num_classes
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, self.emb_channels)
        heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        style = replace(self.style, num_heads=heads)
        skips, channels, factor = list(self.skip_channels), self.channels, self.factor
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                out = int(mult * model_channels)
                layers: list[nn.Module] = [style.block(channels + skips.pop(), out)]
                channels = out
                if factor in attention_resolutions:
                    layers.append(style.attention(channels))
                if level and i == num_res_blocks:
                    layers.append(
                        style.block(channels, channels, Upsample(channels, conv=False))
                        if resblock_updown
                        else Upsample(channels, conv_resample)
                    )
                    factor //= 2
                self.output_blocks.append(TimestepSequential(*layers))
        self.out = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self._embed(x, t)
        if (y is None) != (self.num_classes is None):
            raise InputError(
                "this U-Net is unconditional: give no labels"
                if self.num_classes is None
                else f"this U-Net is conditional: give labels y in [0, {self.num_classes})"
            )
        if y is not None:
            if y.shape != t.shape:
                raise InputError(
                    f"one label per image: y must be {list(t.shape)}, not {list(y.shape)}"
                )
            emb = emb + self.label_emb(y)
        h, skips = x.to(emb.dtype), []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


class Upsampler(UNet):
    """A U-Net that also reads a low-resolution image, enlarged bilinearly and concatenated."""

    def __init__(self, in_channels: int, *args, **kwargs):
        super().__init__(2 * in_channels, *args, **kwargs)

    def forward(self, x: Tensor, t: Tensor, low_res: Tensor, y: Tensor | None = None) -> Tensor:
        if low_res.shape[:2] != x.shape[:2]:
            raise InputError(
                f"low_res must be {list(x.shape[:2])} images and channels like x, "
                f"not {list(low_res.shape[:2])}"
            )
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), t, y)


class Classifier(_Encoder):
    """The noisy classifier of classifier guidance: `(x [B,C,S,S], t [B]) -> [B, out_channels]`.

    `image_size` sets the attention pool; `pool` is "attention" (all public classifiers) or
    "adaptive" (average), the two that keep the spatial map.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        rescale_residuals: bool = False,
        pool: str = "attention",
    ):
        super().__init__(
            in_channels,
            model_channels,
            num_res_blocks,
            attention_resolutions,
            dropout,
            channel_mult,
            conv_resample,
            num_heads,
            num_head_channels,
            use_scale_shift_norm,
            resblock_updown,
            use_new_attention_order,
            rescale_residuals,
        )
        self.image_size, self.out_channels = image_size, out_channels
        channels = self.channels
        if pool == "attention":
            heads = count_heads(channels, num_heads, num_head_channels)
            head = [AttentionPool(image_size // self.factor, channels, heads, out_channels)]
        elif pool == "adaptive":
            conv = zeroed(nn.Conv2d(channels, out_channels, 1))
            head = [nn.AdaptiveAvgPool2d(1), conv, nn.Flatten()]
        else:
            raise InputError(f"pool must be 'attention' or 'adaptive', not {pool!r}")
        self.out = nn.Sequential(group_norm(channels), nn.SiLU(), *head)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self._embed(x, t)
        h = x.to(emb.dtype)
        for stage in self.input_blocks:
            h = stage(h, emb)
        return self.out(self.middle_block(h, emb))


# The public scripts derive the widths from the image size where channel_mult is empty.
_UNET_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
_UPSAMPLER_MULT = {512: (1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 64: (1, 2, 3, 4)}
_IMAGENET_CLASSES = 1000
# Flags of the public scripts that say nothing about the network.
_OTHER_FLAGS = {
    "diffusion_steps",
    "noise_schedule",
    "timestep_respacing",
    "use_kl",
    "predict_xstart",
    "rescale_timesteps",
    "rescale_learned_sigmas",
    "use_checkpoint",
    "use_fp16",
    "classifier_use_fp16",
}


def _mult(flags: dict, size: int, defaults: Mapping[int, tuple]) -> tuple:
    if text := flags.pop("channel_mult", ""):
        return tuple(float(m) if "." in m else int(m) for m in text.split(","))
    if size not in defaults:
        raise InputError(
            f"no default channel_mult for image size {size} (there is for "
            f"{', '.join(map(str, sorted(defaults)))}): give one, such as '1,2,4'"
        )
    return defaults[size]


def _factors(text: str, size: int) -> tuple[int, ...]:
    """'32,16,8' names feature-map sizes; the networks want downsampling factors."""
    return tuple(size // int(resolution) for resolution in text.split(","))


def from_flags(config: Mapping) -> UNet | Upsampler | Classifier:
    """The network that the public scripts build from these command-line flags.

    Flags named `classifier_*` give a `Classifier`, `large_size` an `Upsampler`, everything
    else a `UNet`. Flags about the diffusion process are passed over; unknown or missing ones
    raise `InputError`. The `class_cond` networks have ImageNet's 1000 classes.
    """
    flags = {key: value for key, value in config.items() if key not in _OTHER_FLAGS}
    try:
        network = _classifier(flags) if "classifier_width" in flags else _unet(flags)
    except KeyError as error:
        raise InputError(f"the flags lack {error.args[0]!r}") from None
    if flags:
        raise InputError(f"unknown flags: {', '.join(sorted(flags))}")
    return network


def _classifier(flags: dict) -> Classifier:
    size = flags.pop("image_size")
    return Classifier(
        image_size=size,
        in_channels=3,
        model_channels=flags.pop("classifier_width"),
        out_channels=_IMAGENET_CLASSES,
        num_res_blocks=flags.pop("classifier_depth"),
        attention_resolutions=_factors(flags.pop("classifier_attention_resolutions"), size),
        channel_mult=_mult(flags, size, _UNET_MULT),
        num_head_channels=64,
        use_scale_shift_norm=flags.pop("classifier_use_scale_shift_norm"),
        resblock_updown=flags.pop("classifier_resblock_updown"),
        pool=flags.pop("classifier_pool"),
    )


def _unet(flags: dict) -> UNet | Upsampler:
    kind, mults = UNet, _UNET_MULT
    if "large_size" in flags:
        kind, mults = Upsampler, _UPSAMPLER_MULT
        flags.pop("small_size", None)
        size = flags.pop("large_size")
    else:
        size = flags.pop("image_size")
    return kind(
        in_channels=3,
        model_channels=flags.pop("num_channels"),
        out_channels=6 if flags.pop("learn_sigma") else 3,
        num_res_blocks=flags.pop("num_res_blocks"),
        attention_resolutions=_factors(flags.pop("attention_resolutions"), size),
        dropout=flags.pop("dropout", 0.0),
        channel_mult=_mult(flags, size, mults),
        num_classes=_IMAGENET_CLASSES if flags.pop("class_cond") else None,
        num_heads=flags.pop("num_heads"),
        num_head_channels=flags.pop("num_head_channels"),
        num_heads_upsample=flags.pop("num_heads_upsample"),
        use_scale_shift_norm=flags.pop("use_scale_shift_norm"),
        resblock_updown=flags.pop("resblock_updown"),
        use_new_attention_order=flags.pop("use_new_attention_order", False),
    )
