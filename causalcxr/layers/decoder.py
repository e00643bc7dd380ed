"""Decoder with label queries that collect causal and confounding features from an image."""

from typing import Any

import torch
from einops import rearrange, reduce
from timm.layers import Mlp, build_sincos2d_pos_embed
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr.layers.cross_attention import DisentangledAttention, DisentangledCrossAttention

__all__ = ["CausalDecoder"]


class CausalDecoderLayer(nn.Module):
    """Cross-attention and an MLP, each with a residual connection followed by a norm (post-norm)."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        complement: str,
        proj_drop: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.attn = DisentangledCrossAttention(dim, num_heads=num_heads, complement=complement, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, hidden_features=4 * dim, drop=proj_drop, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.drop = nn.Dropout(proj_drop)

    def forward(
        self, content: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, *, need_attention: bool = False
    ) -> tuple[Tensor, DisentangledAttention]:
        attended = self.attn(content + query_pos, key, value, need_attention=need_attention)
        content = self.norm1(content + self.drop(attended.causal))
        return self.norm2(content + self.mlp(content)), attended


class CausalDecoder(nn.Module):
    """Decode a feature map into one causal and one confounding feature per label (arXiv 2305.12072, Eq. 2).

    The K label queries start with zero content. Their position is a learned label embedding, added before each
    attention. Keys, but not values, have fixed sine-cosine position embeddings: sin y, sin x, cos y and cos x with base
    10,000. Each layer updates the queries with its causal branch: x = norm(x + Q), then x = norm(x + MLP(x)), with 4 D
    hidden units. The confounding feature (before norm and MLP) and the attention (averaged over heads) are those of the
    last layer. As in the equations, labels do not attend to each other, so adding labels does not change the others.

    Args:
        num_classes: Number of labels K; 0 for none.
        dim: Width D, a multiple of 4 (sine and cosine for two axes) and of `num_heads`.
        depth: Number of layers.
        num_heads: Number of heads.
        complement: `"normalized"` or `"paper"`, see `DisentangledCrossAttention`.
        proj_drop: Dropout rate after attention and in the MLP.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - features: (B, D, H, W)
        - Output: `DisentangledAttention` of (B, K, D), (B, K, D) and (B, K, H, W) or `None`

    Raises:
        ValueError: If shapes do not match, or `dim` or `depth` is out of range.
        TypeError: If the features are not a floating-point tensor.

    Example:
        >>> import torch
        >>> decoder = CausalDecoder(14, 64, num_heads=4)
        >>> decoder(torch.randn(2, 64, 7, 9), need_attention=True).attention.shape
        torch.Size([2, 14, 7, 9])
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        *,
        depth: int = 2,
        num_heads: int = 8,
        complement: str = "normalized",
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"dim must be a multiple of 4 for sine-cosine positions, but got {dim}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, but got {depth}")
        self.dim = dim
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layers = nn.ModuleList(
            CausalDecoderLayer(dim, num_heads=num_heads, complement=complement, proj_drop=proj_drop, **dd)
            for _ in range(depth)
        )
        self.label_embed = nn.Embedding(num_classes, dim, **dd)

    def forward(self, features: Tensor, *, need_attention: bool = False) -> DisentangledAttention:
        """Decode a feature map. With `need_attention`, return the attention maps as well."""
        check_tensor("features", features, "B D H W", D=self.dim)
        batch, _, height, width = features.shape
        tokens = rearrange(features, "b d h w -> b (h w) d")
        position = build_sincos2d_pos_embed([height, width], self.dim, dtype=torch.float32, device=features.device)
        keys = tokens + position.to(tokens.dtype)
        query_pos = self.label_embed.weight.to(tokens.dtype).expand(batch, -1, -1)
        content = torch.zeros_like(query_pos)
        for layer in self.layers:
            content, attended = layer(content, query_pos, keys, tokens, need_attention=need_attention)
        attention = attended.attention
        if attention is not None:
            attention = reduce(attention, "b heads k (h w) -> b k h w", "mean", h=height)
        return DisentangledAttention(content, attended.confounder, attention)
