"""dino.txt's image head: light transformer blocks over cached tokens, then [CLS; mean patch]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from embedstore.documents import DinotxtOptions
from embedstore.errors import HeadError
from embedstore.heads.blocks import Block, log_counts_of
from embedstore.heads.image_inputs import cls_of, patch_mean, patches_of
from embedstore.heads.precision import unit
from embedstore.heads.text_sides import ProjectedText

if TYPE_CHECKING:
    from embedstore.documents import HeadConfig


class DinotxtHead(ProjectedText):
    """`v = normalize(W [CLS; mean patch])` of what the blocks make of [CLS, registers, patches].

    After the blocks comes a LayerNorm; W has no bias, and is left out by `project=false`, where the joint
    width must be twice the tokens'. A token of a merged feature counts in attention and mean for as many
    patches as it stands for. dino.txt trains its text encoder too; here the text side is freeze-align's two
    projectors on the frozen one. An encoder without CLS gives its pooled embedding in its place.
    `HeadError` where that is not as wide as the tokens.
    Source: dino.txt (CVPR 2025), "DINOv2 Meets Text", and its public code.
    """

    options_type = DinotxtOptions
    reads = frozenset({"text_token", "text_global"})
    needs_tokens = frozenset({"images"})

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        options: DinotxtOptions = self.options_of(config.options)
        self.config, width = config, config.image_width
        if config.image_cls_width != width:
            raise HeadError(
                "the blocks need CLS, or a pooled embedding as wide as the tokens",
                found=f"tokens {width} wide, pooled {config.image_cls_width}, no CLS",
            )
        if not options.project and config.width != 2 * width:
            raise HeadError(
                "without 'project' the joint width is that of [CLS; mean patch]",
                found=f"width {config.width}, tokens {width} wide",
                todo=f"take width {2 * width}",
            )
        self.blocks = nn.ModuleList(
            Block(
                width,
                head_width=min(options.head_width, width),
                expansion=options.expansion,
                dropout=config.dropout,
            )
            for _ in range(options.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(2 * width, config.width, bias=False) if options.project else nn.Identity()
        self.make_text(config, width=config.width)

    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, d)`; to unit vectors `(b, e)`."""
        cls, patches = self._tokens(tokens, prefix, pooled, weights)
        both = torch.cat([cls, patch_mean(patches, weights)], dim=-1)
        return unit(self.project(both))

    def embed_patches(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`normalize(W [CLS; patch])` of every patch after the blocks, `(b, t, e)`."""
        cls, patches = self._tokens(tokens, prefix, pooled, weights)
        both = torch.cat([cls.unsqueeze(1).expand_as(patches), patches], dim=-1)
        return unit(self.project(both))

    def _tokens(
        self, tokens: Tensor, prefix: Tensor | None, pooled: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """CLS `(b, d)` and the patches `(b, t, d)` after blocks and norm."""
        cls, dtype = cls_of(prefix, pooled, self.config), self.norm.weight.dtype
        registers = [] if prefix is None else [prefix[:, 1:] if self.config.image_card.has_cls else prefix]
        first = torch.cat([part.to(dtype) for part in (cls.unsqueeze(1), *registers)], dim=1)
        x, counts = torch.cat([first, tokens.to(dtype)], dim=1), None
        if weights is not None:
            patches = patches_of(self.config) or tokens.shape[1]
            counts = log_counts_of(weights, patches, first.shape[1], dtype)
        for block in self.blocks:
            x = block(x, counts)
        x = self.norm(x)
        return x[:, 0], x[:, first.shape[1] :]
