"""Cross-attention that separates what a query attends to from the rest of the image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_heads, check_tensor

__all__ = ["DisentangledAttention", "DisentangledCrossAttention"]


class DisentangledAttention(NamedTuple):
    """The output of `DisentangledCrossAttention` and `CausalDecoder`.

    Attributes:
        causal: (B, K, D) attended features A v.
        confounder: (B, K, D) complementary features (1 - A) v.
        attention: (B, heads, K, N) softmax attention A, or (B, K, H, W) from a decoder. `None` unless requested.
    """

    causal: Tensor
    confounder: Tensor
    attention: Tensor | None


class DisentangledCrossAttention(nn.Module):
    r"""Multi-head cross-attention with a causal and a confounding output (Nie et al., arXiv 2305.12072, Eq. 2).

    For each head, with A = softmax(q k^T / sqrt(d)),

    .. math:: Q = A v, \qquad \overline{Q} = (1 - A) v = \sum_n v_n - A v.

    The rows of 1 - A sum to N - 1, so the published form grows with the resolution. `complement="normalized"` divides
    it by N - 1, which makes it a weighted mean, like A v. `complement="paper"` uses the published form.
    Both branches share the output projection. The keys have no bias: it would add a constant to all logits of a query,
    which cancels in the softmax.

    Args:
        dim: Width D.
        num_heads: Number of heads.
        complement: `"normalized"` or `"paper"`.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - query: (B, K, D)
        - key, value: (B, N, D); `value` defaults to `key`
        - Output: `DisentangledAttention` of (B, K, D), (B, K, D) and (B, heads, K, N) or `None`

    Raises:
        ValueError: If shapes do not match or `dim` is not a multiple of `num_heads`.
        TypeError: If an input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> attend = DisentangledCrossAttention(64, num_heads=4)
        >>> output = attend(torch.randn(2, 14, 64), torch.randn(2, 49, 64))
        >>> output.causal.shape, output.confounder.shape, output.attention
        (torch.Size([2, 14, 64]), torch.Size([2, 14, 64]), None)
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        complement: str = "normalized",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice("complement", complement, ("normalized", "paper"))
        self.dim, self.num_heads, self.complement = dim, num_heads, complement
        self.q_proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.k_proj = nn.Linear(dim, dim, bias=False, device=device, dtype=dtype)
        self.v_proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.out_proj = nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, *, need_attention: bool = False
    ) -> DisentangledAttention:
        """Attend from label queries to image tokens. With `need_attention`, return the attention maps as well."""
        value = key if value is None else value
        check_tensor("query", query, "B K D", D=self.dim)
        check_tensor("key", key, "B N D", B=query.shape[0], D=self.dim)
        check_tensor("value", value, "B N D", B=query.shape[0], N=key.shape[1], D=self.dim)
        q, k, v = (
            rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        if need_attention:
            attention = ((q / q.shape[-1] ** 0.5) @ k.mT).softmax(dim=-1).to(v.dtype)
            causal = attention @ v
        else:
            attention = None
            causal = F.scaled_dot_product_attention(q, k, v)
        # (1 - A) v without forming 1 - A. At least float32: the sum is N times as large as the normalised result.
        total = v.sum(dim=-2, keepdim=True, dtype=torch.promote_types(v.dtype, torch.float32))
        confounder = total - causal
        if self.complement == "normalized":
            confounder = confounder / max(key.shape[1] - 1, 1)  # a single token has no complement: 0, not 0 / 0
        causal, confounder = (
            self.out_proj(rearrange(x, "b h k d -> b k (h d)")) for x in (causal, confounder.to(causal.dtype))
        )
        return DisentangledAttention(causal, confounder, attention)

    def extra_repr(self) -> str:
        """Return the options to print."""
        return f"num_heads={self.num_heads}, complement={self.complement!r}"
