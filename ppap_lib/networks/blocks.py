"""The building blocks of the ADM networks, under the public code's parameter names."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_lib.errors import InputError

GROUPS = 32  # the public networks normalise in 32 groups, so every width is a multiple of 32


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return sinusoids [B, dim] of real timesteps `t` [B], cosines first (Ho et al. 2020)."""
    half = dim // 2
    rates = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device).float())
    angles = t[:, None].float() * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def group_norm(channels: int) -> nn.GroupNorm:
    """Make a normalisation in 32 groups; `InputError` where 32 does not divide `channels`."""
    if channels % GROUPS:
        raise InputError(
            f"{channels} channels: group normalisation needs a multiple of {GROUPS}; "
            f"choose model_channels and channel_mult accordingly"
        )
    return nn.GroupNorm(GROUPS, channels)


def zeroed(module: nn.Module) -> nn.Module:
    """Set all parameters of the module to zero, and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Upsample(nn.Module):
    """A layer that doubles a map by nearest neighbours.

    Parameters
    ----------
    channels
        Channels of the map.
    conv
        Whether a 3x3 convolution follows.
    """

    def __init__(self, channels: int, conv: bool):
        super().__init__()
        if conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.use_conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, 2H, 2W] for x [B, channels, H, W]."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """A layer that halves a map.

    Parameters
    ----------
    channels
        Channels of the map.
    conv
        Whether a strided 3x3 convolution does it, or 2x2 averaging.
    """

    def __init__(self, channels: int, conv: bool):
        super().__init__()
        pool = nn.AvgPool2d(2)
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else pool

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H/2, W/2] for x [B, channels, H, W]."""
        return self.op(x)


class ResBlock(nn.Module):
    """A residual block that reads the timestep embedding, and resamples where it is told to.

    Parameters
    ----------
    channels, out_channels
        Channels of its input and output.
    emb_channels
        Width of the timestep embedding.
    dropout
        Share of activations that are dropped in training.
    use_scale_shift_norm, rescale_residuals
        As in `Architecture`.
    resample
        A layer that halves or doubles the map in both branches (BigGAN's up and down).
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int,
        use_scale_shift_norm: bool,
        rescale_residuals: bool = False,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.residual_scale = math.sqrt(0.5) if rescale_residuals else 1.0
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(
            group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(emb_channels, out_channels * (2 if use_scale_shift_norm else 1)),
        )
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return [B, out_channels, H, W], resampled, for x [B, channels, H, W] and emb [B, E]."""
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.use_scale_shift_norm:  # AdaGN
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        h = self.skip_connection(self.resample(x)) + h
        return h if self.residual_scale == 1.0 else h * self.residual_scale


def _attend(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """Self-attention of [B, 3*C, L]; the public code knows two orders of the 3*C channels."""
    b, width, length = qkv.shape
    each = width // (3 * heads)
    if new_order:  # (q, k, v) outermost, heads inside
        q, k, v = qkv.view(b, 3, heads, each, length).unbind(1)
    else:  # heads outermost, (q, k, v) inside
        q, k, v = qkv.view(b, heads, 3, each, length).unbind(2)
    out = F.scaled_dot_product_attention(*(z.transpose(2, 3) for z in (q, k, v)))
    return out.transpose(2, 3).reshape(b, width // 3, length)


def count_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    """Return into how many heads `channels` are cut, `num_heads` or of `num_head_channels` each.

    Raises
    ------
    InputError
        If they cannot be cut so.
    """
    if num_head_channels != -1:
        if num_head_channels < 1 or channels % num_head_channels:
            raise InputError(f"{channels} channels cannot be cut into heads of {num_head_channels}")
        return channels // num_head_channels
    if num_heads < 1 or channels % num_heads:
        raise InputError(f"{channels} channels cannot be cut into {num_heads} heads")
    return num_heads


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection.

    Parameters
    ----------
    channels, heads
        Channels of the map, and the heads that they are cut into.
    new_order, rescale_residuals
        `use_new_attention_order` and `rescale_residuals` of `Architecture`.
    """

    def __init__(self, channels: int, heads: int, new_order: bool, rescale_residuals: bool = False):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.residual_scale = math.sqrt(0.5) if rescale_residuals else 1.0
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like x [B, channels, ...]."""
        # Normalised in four dimensions: a flattened channels_last tensor would be copied.
        qkv = self.qkv(self.norm(x).flatten(2))
        h = self.proj_out(_attend(qkv, self.heads, self.new_order))
        h = x + h.view(x.shape)
        return h if self.residual_scale == 1.0 else h * self.residual_scale


class AttentionPool(nn.Module):
    """Attention pooling, read at an appended mean token (as in CLIP).

    Parameters
    ----------
    size
        Side of the map.
    channels, heads
        Channels of the map, and the heads that they are cut into.
    out_channels
        Width of the output.
    """

    def __init__(self, size: int, channels: int, heads: int, out_channels: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, size**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out_channels] for x [B, channels, size, size]; `InputError` for others."""
        x = x.flatten(2)
        if x.shape[2] + 1 != self.positional_embedding.shape[1]:
            raise InputError(
                f"the attention pool was built for {self.positional_embedding.shape[1] - 1} "
                f"positions, not {x.shape[2]}: give images of the classifier's image_size"
            )
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2) + self.positional_embedding
        return self.c_proj(_attend(self.qkv_proj(x), self.heads, new_order=True))[:, :, 0]


class TimestepSequential(nn.Sequential):
    """A sequence of layers (its arguments) that hands the embedding to residual blocks."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the last layer's output for the map x and the embedding emb [B, E]."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


@dataclass(frozen=True)
class Architecture:
    """Widths and switches of an ADM network, under the public code's argument names.

    `dataclasses.replace` makes a variant. Every switch of the paper's ablation (table 1 of
    Dhariwal & Nichol 2021) is a field.

    Parameters
    ----------
    in_channels, out_channels
        Channels of x, and of the output: twice as many with learned variance, the number of
        classes of a classifier.
    model_channels
        The width that the `channel_mult` multiply; all widths are multiples of 32.
    num_res_blocks
        Residual blocks of a level on the way down; there is one more on the way up.
    attention_resolutions
        Downsampling factors at which blocks attend (1 is full size); the middle always does.
    dropout
        Share of activations that are dropped in training.
    channel_mult
        The width of each level; between two levels the map is halved.
    conv_resample
        Whether maps are resampled with a convolution.
    num_classes
        Number of labels of a class-conditional U-Net; None for an unconditional one.
    num_heads, num_head_channels
        Attention heads, or else the channels of a head: -1 leaves it to `num_heads`.
    num_heads_upsample
        Heads on the way up, where others than on the way down; -1 for as many.
    use_scale_shift_norm
        Whether the timestep scales and shifts after the norm (AdaGN), or is added before it.
    resblock_updown
        Whether residual blocks resample, as BigGAN's do.
    use_new_attention_order
        Whether queries, keys and values are outside the heads in the channels of attention.
    rescale_residuals
        Whether every residual sum is multiplied by sqrt(1/2).
    """

    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    dropout: float = 0.0
    channel_mult: tuple[float, ...] = (1, 2, 4, 8)
    conv_resample: bool = True
    num_classes: int | None = None
    num_heads: int = 1
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    rescale_residuals: bool = False

    def __post_init__(self):
        for name in ("attention_resolutions", "channel_mult"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def emb_channels(self) -> int:
        """Width of the timestep embedding."""
        return 4 * self.model_channels

    @property
    def ascending(self) -> "Architecture":
        """The architecture with the heads of the way up."""
        heads = self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample
        return replace(self, num_heads=heads)

    def width(self, level: int) -> int:
        """Return the channels of one level, counted from full size."""
        return int(self.channel_mult[level] * self.model_channels)

    def block(self, channels: int, out: int, resample: nn.Module | None = None) -> ResBlock:
        """Make a residual block from `channels` to `out` channels, `resample` in both branches."""
        return ResBlock(
            channels,
            self.emb_channels,
            self.dropout,
            out,
            self.use_scale_shift_norm,
            self.rescale_residuals,
            resample,
        )

    def attention(self, channels: int) -> AttentionBlock:
        """Make an attention block of so many channels."""
        heads = count_heads(channels, self.num_heads, self.num_head_channels)
        return AttentionBlock(channels, heads, self.use_new_attention_order, self.rescale_residuals)

    def downsample(self, channels: int) -> nn.Module:
        """Make a layer that halves a map of so many channels."""
        if self.resblock_updown:
            return self.block(channels, channels, Downsample(channels, conv=False))
        return Downsample(channels, self.conv_resample)

    def upsample(self, channels: int) -> nn.Module:
        """Make a layer that doubles a map of so many channels."""
        if self.resblock_updown:
            return self.block(channels, channels, Upsample(channels, conv=False))
        return Upsample(channels, self.conv_resample)
