"""Vision transformers as classifiers: attention between square patches of an image."""

from typing import Literal

import haiku as hk
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from l2o.errors import UserError
from l2o.registry import register
from tasks.networks.classifiers import Activations, ClassifierConfig
from tasks.networks.layers import Depth, Heads, Size, check_heads, layer_norm, positions, transformer_block


@register
class ViTClassifierConfig(ClassifierConfig):
    """A vision transformer after Dosovitskiy et al. (2021): patches, a pre-norm encoder, the mean over all patches.

    Attributes:
      patch: height and width of a patch in pixels; a divisor of both of an image's.
      width: of the residual stream.
      depth: blocks of attention and a hidden layer.
      heads: of the attention; a divisor of width.
      expansion: units of a block's hidden layer for each unit of the width.
    """

    kind: Literal["vit_classifier"] = "vit_classifier"
    activation: Activations = "gelu"
    init: Literal["normal", "lecun"] = "lecun"
    start_scale: float = Field(default=1.0, ge=0)
    patch: Size = 4
    width: Size = 32
    depth: Depth = 2
    heads: Heads = 4
    expansion: int = Field(default=2, ge=1, le=64)

    @model_validator(mode="after")
    def _check(self):
        check_heads(self.heads, self.width)
        return self

    def build(self, split="train"):
        family = super().build(split)
        height, width = family.data.images.shape[1:3]
        if height % self.patch or width % self.patch:
            found = f"{self.patch} and images of {height} x {width}"
            raise UserError(f"vit_classifier: patch must divide both sides of an image, found {found}")
        return family

    def network(self, images, classes, activation):
        def feed_forward(x):
            return hk.Linear(self.width)(activation(hk.Linear(self.expansion * self.width)(x)))

        x = tiles(images, self.patch)
        x = hk.Linear(self.width, name="embed")(x) + positions(x.shape[1], self.width)
        for _ in range(self.depth):
            x = transformer_block(x, self.heads, None, feed_forward)
        return hk.Linear(classes, name="head")(layer_norm(x).mean(1))


def tiles(images: Float[Array, "batch h w c"], size: int) -> Float[Array, "batch tiles pixels"]:
    """Images cut into squares, row by row, and each square's numbers in a row."""
    n, h, w, c = images.shape
    cut = images.reshape(n, h // size, size, w // size, size, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // size * (w // size), size * size * c)
