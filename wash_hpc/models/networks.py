"""The networks that torchvision lacks: for 32x32 images, and small enough for a laptop."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.nn import functional as F


class ResNetSmall(nn.Module):
    """The 8-layer CIFAR residual network (He et al., arXiv 1512.03385, 4.2, n = 1): 78 k parameters at width 16.

    Args:
        in_channels: of the images.
        num_classes: outputs.
        width: channels of the first stage; the others have two and four times as many.
        stem_stride: 2 halves the images first, for a third of the time.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = _conv_norm(in_channels, width, stem_stride)
        self.stages = nn.Sequential(
            _Block(width, width, stride=1), _Block(width, 2 * width, stride=2), _Block(2 * width, 4 * width, stride=2)
        )
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        features: Tensor = self.stages(F.relu(self.stem(images)))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(in_channels, out_channels, stride)
        self.second = _conv_norm(out_channels, out_channels, stride=1)
        self.shortcut = nn.Identity() if stride == 1 else _conv_norm(in_channels, out_channels, stride, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        inner: Tensor = self.second(F.relu(self.first(features)))
        return F.relu(inner + self.shortcut(features))


def _conv_norm(in_channels: int, out_channels: int, stride: int, kernel_size: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class VGGSmall(nn.Sequential):
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) in small, with batch normalisation: 18 k parameters at width 8.

    Three stages of two 3x3 convolutions and a 2x2 maximum, then the image's mean and one linear layer, as `vgg16_bn`.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in (width, 2 * width, 4 * width):
            layers += [_conv_norm(channels, stage, stride=1), nn.ReLU(), _conv_norm(stage, stage, stride=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = stage
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class MLP(nn.Sequential):
    """Two hidden layers with ReLU; no normalisation, so its soup has no statistics to recompute."""

    def __init__(self, image_shape: tuple[int, ...], num_classes: int, num_hidden: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(prod(image_shape), num_hidden),
            nn.ReLU(),
            nn.Linear(num_hidden, num_hidden),
            nn.ReLU(),
            nn.Linear(num_hidden, num_classes),
        )


def cifar_resnet18(in_channels: int, num_classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the 3x3 stem and no first pooling that 32x32 images need."""
    import torchvision  # takes seconds to import, and the small networks do without

    model: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def cifar_vgg16(in_channels: int, num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation and a single linear layer on top, as is usual for 32x32 images."""
    import torchvision

    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    if in_channels != 3:
        layers[0] = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1)
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))
