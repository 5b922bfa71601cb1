"""WideResNet: Zagoruyko & Komodakis, "Wide Residual Networks" (2016), without dropout."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hessdiag.errors import InputError


class WideResNet(nn.Module):
    """WRN-depth-widen for small images: three groups of pre-activation blocks at strides 1, 2, 2.

    Convolutions start from He's normal distribution over their fan-out, the head's bias at zero,
    as in the source.

    Args:
        depth: number of convolutions along the longest path and the head, 6n + 4 for n ≥ 1 blocks
            a group.
        widen: factor k ≥ 1; the groups have 16k, 32k and 64k channels.
        num_classes: length of the output.
        in_channels: channels of the input.
        activation: makes one activation; called once for every place that has one.

    Raises:
        InputError: ``depth`` is not 6n + 4, or ``widen`` is below 1.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        num_blocks, rest = divmod(depth - 4, 6)
        if num_blocks < 1 or rest:
            raise InputError(
                "no WideResNet has this depth",
                got=depth,
                wanted="6n + 4: 10, 16, 22, 28, 34, 40, …",
            )
        if widen < 1:
            raise InputError("a WideResNet's widening is out of range", got=widen, wanted="≥ 1")
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        groups: list[nn.Module] = []
        for width_in, width, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
            blocks: list[nn.Module] = [_Block(width_in, width, stride, activation)]
            blocks += [_Block(width, width, 1, activation) for _ in range(1, num_blocks)]
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.activation = activation()
        self.head = nn.Linear(widths[-1], num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        features = self.activation(self.norm(self.groups(self.stem(images))))
        return self.head(features.mean((-2, -1)))


class _Block(nn.Module):
    """Two pre-activated 3×3 convolutions around a shortcut.

    Where the width changes, the shortcut is a 1×1 convolution of the *activated* input; elsewhere
    it is the raw input.
    """

    def __init__(
        self, width_in: int, width: int, stride: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.activation1 = activation()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.activation2 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(width_in, width, 1, stride, bias=False) if width_in != width else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(self.activation2(self.norm2(self.conv1(activated))))
