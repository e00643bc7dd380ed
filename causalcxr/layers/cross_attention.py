"""Cross-attention that splits the image into what a query attends to and all the rest."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_heads, check_mask, check_tensor, eager

__all__ = ["DisentangledAttention", "DisentangledCrossAttention"]


class DisentangledAttention(NamedTuple):
    """What `DisentangledCrossAttention` returns.

    Attributes:
        causal: (B, K, D) attended features A v.
        confounder: (B, K, D) complementary features (1 - A) v.
        attention: (B, heads, K, N) softmax attention A, or `None` where it was not asked for.
    """

    causal: Tensor
    confounder: Tensor
    attention: Tensor | None


class DisentangledCrossAttention(nn.Module):
    r"""Multi-head cross-attention with a causal and a confounding output (Nie et al., arXiv 2305.12072, Eq. 2).

    For each head, with A = softmax(q k^T / sqrt(d)),

    .. math:: Q = A v, \qquad \overline{Q} = (1 - A) v = \sum_n v_n - A v.

    The identity on the right needs neither a second attention nor the map A, so fused attention serves both branches;
    the sum comes from the same call, as the output for one more query that attends to all tokens alike.
    The rows of 1 - A sum to N - 1: the printed form grows with the resolution. `complement="normalized"` divides it by
    N - 1, which makes it a weighted mean as A v is one; `complement="paper"` keeps it as printed.
    Both branches go through the same output projection.

    Args:
        dim: Width D.
        num_heads: Number of heads.
        complement: `"normalized"` or `"paper"`.
        qkv_bias: Whether the three input projections have a bias.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        - query: (B, K, D)
        - key, value: (B, N, D); `value` defaults to `key`
        - mask: (B, N), boolean, True for tokens that take part, or `None` for all
        - Output: `DisentangledAttention` of (B, K, D), (B, K, D) and (B, heads, K, N) or `None`

    Raises:
        ValueError: If shapes do not fit, if `dim` is no multiple of `num_heads`, or if a mask leaves an image no token.
        TypeError: If an input is not of floating point or the mask is not boolean.

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
        qkv_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice("complement", complement, ("normalized", "paper"))
        self.dim, self.num_heads, self.complement = dim, num_heads, complement
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.k_proj = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.v_proj = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        need_attention: bool = False,
    ) -> DisentangledAttention:
        """Attend from the label queries to the tokens of the image, see the class."""
        value = key if value is None else value
        check_tensor("query", query, "B K D", D=self.dim)
        check_tensor("key", key, "B N D", B=query.shape[0], D=self.dim)
        check_tensor("value", value, "B N D", B=query.shape[0], N=key.shape[1], D=self.dim)
        if mask is not None:
            check_mask(mask, "B N", tuple(key.shape[:2]))
            if eager() and not bool(mask.any(dim=-1).all()):
                raise ValueError(
                    "mask must leave every image at least one token that takes part, but got a row of False"
                )
        q, k, v = (
            rearrange(projected, "b n (h d) -> b h n d", h=self.num_heads)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        q = F.pad(q, (0, 0, 0, 1))  # one more query, of zeros: it attends to all tokens alike, to the mean of v
        token_mask = None if mask is None else mask[:, None, None, :]
        if need_attention:
            attention = self._attention(q, k, token_mask)
            attended, attention = attention @ v, attention[:, :, :-1]
        else:
            attended, attention = F.scaled_dot_product_attention(q, k, v, attn_mask=token_mask), None
        causal, mean = attended[:, :, :-1], attended[:, :, -1:]
        num_tokens = k.shape[-2] if token_mask is None else token_mask.sum(dim=-1, keepdim=True)
        branches = torch.stack([causal, self._complement(causal, mean, num_tokens)])
        causal, confounder = self.out_proj(rearrange(branches, "s b h k d -> s b k (h d)")).unbind()
        return DisentangledAttention(causal, confounder, attention)

    def _attention(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        logits = (q * q.shape[-1] ** -0.5) @ k.mT  # scaled first: the product of long vectors overflows float16
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return logits.softmax(dim=-1).to(q.dtype)

    def _complement(self, causal: Tensor, mean: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return (1 - A) v by the identity sum_n v_n - A v, in float32 at least until the end."""
        complement = mean.to(torch.promote_types(mean.dtype, torch.float32)) * num_tokens - causal
        if self.complement == "normalized":
            # A single token has no complement: 1 - A is zero there, and so is the result, not 0 / 0.
            others = num_tokens - 1
            complement = complement / (others.clamp(min=1) if isinstance(others, Tensor) else max(others, 1))
        return complement.to(causal.dtype)

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"num_heads={self.num_heads}, complement={self.complement!r}"
