"""The ADM networks: U-Net, upsampler and noisy classifier (Dhariwal & Nichol 2021, appendix).

State-dict keys and the fields of `Architecture` are those of the public code, so its checkpoints
load as they are and `from_flags` takes its command lines. Timesteps may be real.

>>> tiny = Architecture(3, 32, 3, 1, attention_resolutions=(2,), channel_mult=(1, 2))
>>> network = UNet(replace(tiny, num_classes=10))
>>> network(torch.zeros(1, 3, 8, 8), torch.tensor([999.0]), torch.tensor([4])).shape
torch.Size([1, 3, 8, 8])
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import shown
from ppap_lib.diffusion.noise import check_labels
from ppap_lib.errors import InputError
from ppap_lib.networks.blocks import (
    Architecture,
    AttentionPool,
    TimestepSequential,
    count_heads,
    group_norm,
    timestep_embedding,
    zeroed,
)


class _Encoder(nn.Module):
    """The part that U-Net and classifier share: time embedding, descending path, middle."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = arch = architecture
        self.time_embed = nn.Sequential(
            nn.Linear(arch.model_channels, arch.emb_channels),
            nn.SiLU(),
            nn.Linear(arch.emb_channels, arch.emb_channels),
        )
        channels = arch.width(0)
        self.input_blocks = nn.ModuleList(
            [TimestepSequential(nn.Conv2d(arch.in_channels, channels, 3, padding=1))]
        )
        self.skip_channels = [channels]
        self.factor = 1  # by which the map is smaller than the image
        levels = range(len(arch.channel_mult))
        for level in levels:
            for _ in range(arch.num_res_blocks):
                layers: list[nn.Module] = [arch.block(channels, arch.width(level))]
                channels = arch.width(level)
                if self.factor in arch.attention_resolutions:
                    layers.append(arch.attention(channels))
                self._descend(channels, *layers)
            if level != levels[-1]:
                self._descend(channels, arch.downsample(channels))
                self.factor *= 2
        self.middle_block = TimestepSequential(
            arch.block(channels, channels),
            arch.attention(channels),
            arch.block(channels, channels),
        )
        self.channels = channels

    def _descend(self, channels: int, *layers: nn.Module) -> None:
        self.input_blocks.append(TimestepSequential(*layers))
        self.skip_channels.append(channels)

    def _embed(self, x: Tensor, t: Tensor) -> Tensor:
        """The timestep embedding [B, emb_channels] of checked images and times."""
        arch = self.architecture
        if not (isinstance(x, Tensor) and isinstance(t, Tensor)):
            raise InputError(f"images and timesteps are tensors, not {shown(x)} and {shown(t)}")
        if x.ndim != 4 or x.shape[1] != arch.in_channels or 0 in x.shape[2:]:
            raise InputError(
                f"{type(self).__name__} takes [B, {arch.in_channels}, H, W], not {list(x.shape)}"
            )
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise InputError(
                f"height and width must be multiples of {self.factor}, not {list(x.shape[2:])}"
            )
        if t.shape != x.shape[:1]:
            raise InputError(f"one timestep per image: t must be [{len(x)}], not {list(t.shape)}")
        dtype = self.time_embed[0].weight.dtype
        return self.time_embed(timestep_embedding(t, arch.model_channels).to(dtype))


class UNet(_Encoder):
    """The ADM U-Net, from images and times to images.

    Parameters
    ----------
    architecture
        Its widths and switches.

    Raises
    ------
    InputError
        If widths cannot be normalised in 32 groups or cut into such heads.
    """

    def __init__(self, architecture: Architecture):
        super().__init__(architecture)
        arch = architecture.ascending
        if arch.num_classes is not None:
            self.label_emb = nn.Embedding(arch.num_classes, arch.emb_channels)
        skips, channels, factor = list(self.skip_channels), self.channels, self.factor
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(arch.channel_mult))):
            for i in range(arch.num_res_blocks + 1):
                layers: list[nn.Module] = [arch.block(channels + skips.pop(), arch.width(level))]
                channels = arch.width(level)
                if factor in arch.attention_resolutions:
                    layers.append(arch.attention(channels))
                if level and i == arch.num_res_blocks:
                    layers.append(arch.upsample(channels))
                    factor //= 2
                self.output_blocks.append(TimestepSequential(*layers))
        self.out = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, arch.out_channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B, out_channels, H, W], in the network's dtype.

        Parameters
        ----------
        x
            Images [B, in_channels, H, W]; H and W are multiples of the smallest map's factor.
        t
            Training timesteps [B], whole or real.
        y
            Labels, int64 [B] in [0, num_classes), for a class-conditional network and no other.

        Raises
        ------
        InputError
            For other shapes, or labels that are missing, not read, or without a class.
        """
        emb = self._embed(x, t)
        classes = self.architecture.num_classes
        if (y is None) != (classes is None):
            raise InputError(
                "this U-Net is unconditional: give no labels"
                if classes is None
                else f"this U-Net is conditional: give labels y in [0, {classes})"
            )
        if y is not None:
            emb = emb + self.label_emb(check_labels(y, len(x), classes).to(x.device))
        h, skips = x.to(emb.dtype), []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


class Upsampler(UNet):
    """A U-Net that also reads a low-resolution image, enlarged bilinearly and concatenated.

    Parameters
    ----------
    architecture
        As for `UNet`, with the `in_channels` of x; the network itself reads twice as many.
    """

    def __init__(self, architecture: Architecture):
        super().__init__(replace(architecture, in_channels=2 * architecture.in_channels))

    def forward(self, x: Tensor, t: Tensor, low_res: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B, out_channels, H, W].

        Parameters
        ----------
        x, t, y
            As for `UNet.forward`, whose errors this raises, too.
        low_res
            Small images [B, in_channels, h, w] of any size.

        Raises
        ------
        InputError
            If there are not as many, of as many channels as x.
        """
        if low_res.shape[:2] != x.shape[:2]:
            raise InputError(
                f"low_res must be {list(x.shape[:2])} images and channels like x, "
                f"not {list(low_res.shape[:2])}"
            )
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), t, y)


class Classifier(_Encoder):
    """The noisy classifier of classifier guidance, from images and times to logits.

    Parameters
    ----------
    architecture
        As for `UNet`; it descends only, so it reads no labels and has no heads for the way up.
    image_size
        Height and width of its images, for which the attention pool is built.
    pool
        "attention" (all public classifiers) or "adaptive" (the average, at any size).

    Raises
    ------
    InputError
        For another pool, or as `UNet` does.
    """

    def __init__(self, architecture: Architecture, image_size: int, pool: str = "attention"):
        super().__init__(architecture)
        channels, classes = self.channels, architecture.out_channels
        if pool == "attention":
            heads = count_heads(channels, architecture.num_heads, architecture.num_head_channels)
            head = [AttentionPool(image_size // self.factor, channels, heads, classes)]
        elif pool == "adaptive":
            conv = zeroed(nn.Conv2d(channels, classes, 1))
            head = [nn.AdaptiveAvgPool2d(1), conv, nn.Flatten()]
        else:
            raise InputError(f"pool must be 'attention' or 'adaptive', not {pool!r}")
        self.out = nn.Sequential(group_norm(channels), nn.SiLU(), *head)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits [B, out_channels] of images x [B, in_channels, S, S] at timesteps t [B]."""
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


def _mult(flags: dict[str, Any], size: int, defaults: Mapping[int, tuple]) -> tuple:
    """The widths that the flags name, or else the public script's for this image size."""
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


def from_flags(config: Mapping[str, Any]) -> UNet | Upsampler | Classifier:
    """Build the network that the public scripts build from these command-line flags.

    Flags named `classifier_*` give a `Classifier`, `large_size` an `Upsampler`, all others a
    `UNet`. Networks for labels have ImageNet's 1,000 classes.

    Parameters
    ----------
    config
        Flags by name, without dashes. Flags about the diffusion process are passed over.

    Raises
    ------
    InputError
        For unknown or missing flags, or an image size without default widths.
    """
    flags = {key: value for key, value in config.items() if key not in _OTHER_FLAGS}
    try:
        network = _classifier(flags) if "classifier_width" in flags else _unet(flags)
    except KeyError as error:
        raise InputError(f"the flags lack {error.args[0]!r}") from None
    if flags:
        raise InputError(f"unknown flags: {', '.join(sorted(flags))}")
    return network


def _classifier(flags: dict[str, Any]) -> Classifier:
    size = flags.pop("image_size")
    architecture = Architecture(
        in_channels=3,
        model_channels=flags.pop("classifier_width"),
        out_channels=_IMAGENET_CLASSES,
        num_res_blocks=flags.pop("classifier_depth"),
        attention_resolutions=_factors(flags.pop("classifier_attention_resolutions"), size),
        channel_mult=_mult(flags, size, _UNET_MULT),
        num_head_channels=64,
        use_scale_shift_norm=flags.pop("classifier_use_scale_shift_norm"),
        resblock_updown=flags.pop("classifier_resblock_updown"),
    )
    return Classifier(architecture, size, flags.pop("classifier_pool"))


def _unet(flags: dict[str, Any]) -> UNet | Upsampler:
    kind, mults = UNet, _UNET_MULT
    if "large_size" in flags:
        kind, mults = Upsampler, _UPSAMPLER_MULT
        flags.pop("small_size", None)
        size = flags.pop("large_size")
    else:
        size = flags.pop("image_size")
    architecture = Architecture(
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
    return kind(architecture)
