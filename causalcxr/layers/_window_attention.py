"""Self-attention of each pixel to the window around it."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["window_attention"]

# Largest side of a block of queries. With a window of 7, 11 x 11 queries read 17 x 17 keys. On a CPU, 16 is slower, and
# 8 copies more keys, which training has to store.
BLOCK = 11
# Up to this many pixels, a GPU attends to the whole map faster than it gathers blocks.
WHOLE_ON_GPU = 1024


def window_attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, window: int) -> Tensor:
    r"""Attend from each pixel to the window around it, reflected at the border (Ramachandran et al., 2019, Eq. 2).

    .. math:: o_i = \sum_{j \in W(i)} \mathrm{softmax}_j (q_i \cdot k_j / \sqrt d) \, v_j

    A large map is cut into blocks of queries. Each block gathers the keys and values of all its windows, and one mask
    serves all blocks. This copies each key two or three times. Unfolding the windows would copy it `window ** 2` times.
    For a small map, attention covers the whole map, with a mask that counts how often each window contains each pixel.
    A map of dynamic size in an exported graph is treated in the same way, since the number of blocks would depend on
    the size.

    Args:
        q: Queries (B, C, H, W), where C is a multiple of `num_heads`.
        k: Keys of the same shape.
        v: Values of the same shape.
        num_heads: Number of heads.
        window: Side of the window, odd.

    Returns:
        (B, C, H, W) in `channels_last` memory format.
    """
    height, width = q.shape[-2:]
    whole = WHOLE_ON_GPU if q.is_cuda else (max(BLOCK, window - 1) + window - 1) ** 2
    is_open = any(isinstance(side, torch.SymInt) for side in (height, width))
    attend = _attend_to_whole_map if is_open or height * width <= whole else _attend_by_blocks
    return attend(q, k, v, num_heads, window)


def _attend_to_whole_map(q: Tensor, k: Tensor, v: Tensor, num_heads: int, window: int) -> Tensor:
    """Attend to all pixels, adding to each logit the logarithm of how often the window contains that pixel."""
    height, width = q.shape[-2:]
    rows, cols = (_log_counts(length, window, q) for length in (height, width))
    mask = _as_mask(rows[:, None, :, None] + cols[None, :, None, :]).to(q.dtype)
    q, k, v = (x.flatten(2).mT.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2).unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _log_counts(length: int, window: int, like: Tensor) -> Tensor:
    """Return the logarithm of how often window i contains position j along one axis, (length, length)."""
    windows = _reflected_blocks(length, 1, window // 2, like.device)
    counts = (windows[:, :, None] == torch.arange(length, device=like.device)).sum(dim=1)
    # Avoid the logarithm of 0: an exporter that precomputes the mask would warn.
    logs = counts.clamp(min=1).to(torch.promote_types(like.dtype, torch.float32)).log()
    return logs.masked_fill(counts == 0, float("-inf"))


def _attend_by_blocks(q: Tensor, k: Tensor, v: Tensor, num_heads: int, window: int) -> Tensor:
    """Attend from each block of queries to the keys in and around it."""
    batch, chs, height, width = q.shape
    side = max(BLOCK, window - 1)
    rows, cols = (-(-length // side) for length in (height, width))  # blocks along each axis
    block = (-(-height // rows), -(-width // cols))  # equal, so that the last ones barely overhang the map

    def blocks(x: Tensor, margin: int) -> Tensor:
        """Gather the tokens of each block and its margin, (B * blocks, heads, tokens, d)."""
        tokens = x.flatten(2).mT.index_select(1, _block_indices(height, width, block, margin, x.device))
        count = (block[0] + 2 * margin) * (block[1] + 2 * margin)
        return tokens.reshape(batch * rows * cols, count, num_heads, chs // num_heads).transpose(1, 2)

    keys, values = (blocks(x, window // 2) for x in (k, v))
    attended = F.scaled_dot_product_attention(blocks(q, 0), keys, values, attn_mask=_in_window(block, window, q.device))
    attended = attended.transpose(1, 2).reshape(batch, rows, cols, *block, chs).transpose(2, 3)
    return attended.reshape(batch, rows * block[0], cols * block[1], chs)[:, :height, :width].permute(0, 3, 1, 2)


def _block_indices(height: int, width: int, block: tuple[int, int], margin: int, device: torch.device) -> Tensor:
    """Return the flat indices of the pixels of each block and its margin, row by row within a block."""
    rows, cols = (
        _reflected_blocks(length, side, margin, device) for length, side in zip((height, width), block, strict=True)
    )
    return (rows[:, None, :, None] * width + cols[None, :, None, :]).flatten()


def _reflected_blocks(length: int, side: int, margin: int, device: torch.device) -> Tensor:
    """Return positions along one axis of each block and its margin, reflected, (blocks, side + 2 * margin)."""
    starts = torch.arange(0, length, side, device=device) - margin
    positions = starts[:, None] + torch.arange(side + 2 * margin, device=device)
    # Bounce between the first and the last pixel. A tensor, since ONNX has no remainder by a dynamic length.
    period = torch.full((), max(2 * (length - 1), 1), device=device)
    positions = positions.remainder(period)
    return torch.where(positions < length, positions, period - positions)


def _in_window(block: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """Return the mask of the keys of a block and its margin in each query's window, (1, 1, queries, keys)."""

    def along(side: int) -> Tensor:
        query, key = torch.arange(side, device=device)[:, None], torch.arange(side + window - 1, device=device)
        return (key >= query) & (key < query + window)

    rows, cols = (along(side) for side in block)
    return _as_mask(rows[:, None, :, None] & cols[None, :, None, :])


def _as_mask(pairs: Tensor) -> Tensor:
    """Flatten (query rows, query columns, key rows, key columns) to (1, 1, queries, keys).

    For a mask with only two axes, `torch.compile` may choose strides that cuDNN does not accept.
    """
    return pairs.flatten(2).flatten(0, 1)[None, None]
