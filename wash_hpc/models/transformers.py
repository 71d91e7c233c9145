"""Two small transformers: of images, which is torchvision's own, and of text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wash_hpc.errors import ConfigError

NUM_HEADS = 4
LEAST_PATCHES = 7  # a side, of an image that is large enough


def vit_small(image_shape: tuple[int, ...], num_classes: int, width: int) -> nn.Module:
    """torchvision's VisionTransformer of 6 layers and 4 heads with 4 x width features: 206 k parameters at width 16.

    Patches are the largest squares of 2, 4, 8, 16 or 32 pixels that part the image into 7 or more a side: 2 for 8x8
    images, 4 for 28x28 and 32x32, 32 for 224x224.

    Raises:
        ConfigError: the images are not squares, or of an odd size.
    """
    from torchvision.models import VisionTransformer  # takes seconds to import

    channels, height, side = image_shape
    if height != side or side % 2:
        raise ConfigError(f"model.name=vit_small: images of {height}x{side} pixels; expected squares of an even size")
    patch = max(size for size in (2, 4, 8, 16, 32) if size == 2 or (side % size == 0 and side // size >= LEAST_PATCHES))
    features = NUM_HEADS * width
    model: nn.Module = VisionTransformer(side, patch, 6, NUM_HEADS, features, 2 * features, num_classes=num_classes)
    if channels != 3:
        projection = nn.Conv2d(channels, features, kernel_size=patch, stride=patch)
        nn.init.trunc_normal_(projection.weight, std=math.sqrt(1 / (channels * patch**2)))  # as torchvision has it
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        model.conv_proj = projection
    return model


class LanguageModel(nn.Module):
    """A causal transformer with learned positions, normalised before each part: 241 k parameters at width 16, T = 128.

    Initialised as GPT-2: normal with deviation 0.02, what adds to the residual stream smaller by the root of how many
    do.

    Args:
        context: T, the longest text.
        num_classes: tokens there are.
        width: features / 4.
        num_blocks: transformer blocks.
    """

    def __init__(self, context: int, num_classes: int, width: int, num_blocks: int = 4) -> None:
        super().__init__()
        features = NUM_HEADS * width
        self.tokens = nn.Embedding(num_classes, features)
        self.positions = nn.Embedding(context, features)
        self.blocks = nn.Sequential(*(_Block(features) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                scale = math.sqrt(2 * num_blocks) if name.endswith(("attended", "contract")) else 1.0
                nn.init.normal_(module.weight, std=0.02 / scale)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, num_classes] of the token behind each of the tokens [B, T] int64."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))
        return logits


class _Block(nn.Module):
    """Attention to what came before, then two layers on each token by itself, each with a way around it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm_before_attention = nn.LayerNorm(features)
        self.attend = nn.Linear(features, 3 * features)
        self.attended = nn.Linear(features, features)
        self.norm_before_expand = nn.LayerNorm(features)
        self.expand = nn.Linear(features, 4 * features)
        self.contract = nn.Linear(4 * features, features)

    def forward(self, features: Tensor) -> Tensor:
        heads = self.attend(self.norm_before_attention(features)).unflatten(2, (3, NUM_HEADS, -1)).transpose(1, 3)
        query, key, value = heads.unbind(2)  # each [B, heads, T, features / heads]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        features = features + self.attended(mixed)
        inner: Tensor = self.contract(F.gelu(self.expand(self.norm_before_expand(features))))
        return features + inner
