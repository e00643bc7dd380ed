"""Cross-attention that splits the image into what a query attends to and all the rest."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_heads, check_mask, check_tensor, eager

__all__ = ["DisentangledAttention", "DisentangledCrossAttention"]

LONGEST_HEAD = 256  # for which fused attention has a kernel on every device


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

    Few queries are projected into the space of the tokens, q k_n = (W_k^T q) x_n and A v = W_v (A x), which is the same
    product in another order and leaves the many tokens as they are. A bias of the keys would add the same to all
    logits of a query, which the softmax ignores: there is none.

    Args:
        dim: Width D.
        num_heads: Number of heads.
        complement: `"normalized"` or `"paper"`.
        qkv_bias: Whether the projections of queries and values have a bias.
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
        self.k_proj = nn.Linear(dim, dim, bias=False, device=device, dtype=dtype)
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
        q = self._heads(self.q_proj(query))
        q = F.pad(q, (0, 0, 0, 1))  # one more query, of zeros: it attends to all tokens alike, to the mean of v
        token_mask = None if mask is None else mask[:, None, None, :]
        few = self.num_heads * q.shape[2] <= self.dim <= LONGEST_HEAD
        attend = self._attend_few if few else self._attend_many
        attended, attention = attend(q, key, value, token_mask, need_attention)
        causal, mean = attended[:, :, :-1], attended[:, :, -1:]
        attention = None if attention is None else attention[:, :, :-1]
        num_tokens = key.shape[1] if token_mask is None else token_mask.sum(dim=-1, keepdim=True)
        branches = torch.stack([causal, self._complement(causal, mean, num_tokens)])
        causal, confounder = self.out_proj(rearrange(branches, "s b h k d -> s b k (h d)")).unbind()
        return DisentangledAttention(causal, confounder, attention)

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)

    def _attend_many(
        self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Project the tokens. Returns A v (B, heads, K + 1, d) and, if asked for, A (B, heads, K + 1, N)."""
        k, v = self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        return self._attend(q, k, v, mask, need_attention)

    def _attend_few(
        self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Project the queries of all heads, and what they attended to. Returns what `_attend_many` does."""
        to_keys = rearrange(self.k_proj.weight, "(h d) c -> h d c", h=self.num_heads)
        from_values = rearrange(self.v_proj.weight, "(h d) c -> h c d", h=self.num_heads)
        q = rearrange(q @ to_keys, "b h k c -> b 1 (h k) c")
        attended, attention = self._attend(q, key[:, None], value[:, None], mask, need_attention)
        attended = rearrange(attended, "b 1 (h k) c -> b h k c", h=self.num_heads) @ from_values
        if self.v_proj.bias is not None:
            attended = attended + rearrange(self.v_proj.bias, "(h d) -> h 1 d", h=self.num_heads)
        if attention is not None:
            attention = rearrange(attention, "b 1 (h k) n -> b h k n", h=self.num_heads)
        return attended, attention

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        scale = (self.dim // self.num_heads) ** -0.5
        if not need_attention:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), None
        logits = (q * scale) @ k.mT  # scaled first: the product of long vectors overflows float16
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        attention = logits.softmax(dim=-1).to(q.dtype)
        return attention @ v, attention

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
