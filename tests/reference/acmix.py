"""ACmix (Pan et al., CVPR 2022), pixel by pixel.

q = W1 x + b1,  k = W2 x + b2,  v = W3 x + b3,  p = Wp (x, y) + bp  on the grid [-1, 1]^2
attention_i = sum_j softmax_j(q_i . (k_j + p_i - p_j) / sqrt(d)) v_j       j in the window, reflected at the border
f_t = sum_g fc_tg s_g                                            s = the heads of q, then of k, then of v
convolution = grouped convolution of f, one group for each channel of a head, zeros outside
output = rate1 attention + rate2 convolution
"""

import math

import torch


def acmix(x, weights, *, num_heads, window=7, kernel=3):
    q, k, v = (pointwise(x, weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("conv1", "conv2", "conv3"))
    attention = windowed_attention(q, k, v, weights, num_heads=num_heads, window=window)
    convolution = mixed_convolution(q, k, v, weights, num_heads=num_heads, kernel=kernel)
    return weights["rate1"] * attention + weights["rate2"] * convolution


def pointwise(x, weight, bias=None):
    """1x1 convolution: the same linear map at every pixel."""
    out = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x)
    return out if bias is None else out + bias[:, None, None]


def reflected(index, size):
    """Reflect an index at the first and the last pixel until it is within range."""
    if size == 1:
        return 0
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def grid_value(index, size):
    return -1.0 if size == 1 else -1.0 + 2.0 * index / (size - 1)


def windowed_attention(q, k, v, weights, *, num_heads, window):
    height, width = q.shape[-2:]
    q, k, v = (x.unflatten(1, (num_heads, -1)) for x in (q, k, v))  # (B, heads, d, H, W)
    weight_x, weight_y = weights["conv_p.weight"][:, :, 0, 0].T

    def p(row, col):
        return weight_x * grid_value(col, width) + weight_y * grid_value(row, height) + weights["conv_p.bias"]

    offsets = range(-(window // 2), window // 2 + 1)
    attended = torch.empty_like(v)
    for row in range(height):
        for col in range(width):
            near = [(reflected(row + dy, height), reflected(col + dx, width)) for dy in offsets for dx in offsets]
            keys = [k[..., y, x] + p(row, col) - p(y, x) for y, x in near]
            logits = [(q[..., row, col] * key).sum(dim=-1) / math.sqrt(q.shape[2]) for key in keys]
            exponentials = [(logit - torch.stack(logits).amax(dim=0)).exp() for logit in logits]
            weighted = sum(e[..., None] * v[..., y, x] for e, (y, x) in zip(exponentials, near, strict=True))
            attended[..., row, col] = weighted / sum(exponentials)[..., None]
    return attended.flatten(1, 2)


def mixed_convolution(q, k, v, weights, *, num_heads, kernel):
    channels, height, width = q.shape[1:]
    d, radius = channels // num_heads, kernel // 2
    fc, weight, bias = weights["fc.weight"][:, :, 0, 0], weights["dep_conv.weight"], weights["dep_conv.bias"]
    stacked = [m[:, h * d : (h + 1) * d] for m in (q, k, v) for h in range(num_heads)]  # 3 * heads maps (B, d, H, W)
    outputs = []
    for out in range(channels):
        channel = out // num_heads  # each channel of a head is one group of num_heads outputs
        total = bias[out]
        for t in range(kernel**2):
            f = sum(fc[t, g] * stacked[g][:, channel] for g in range(3 * num_heads))
            padded = q.new_zeros(len(q), height + 2 * radius, width + 2 * radius)
            padded[:, radius : radius + height, radius : radius + width] = f
            for i in range(kernel):
                for j in range(kernel):
                    total = total + weight[out, t, i, j] * padded[:, i : i + height, j : j + width]
        outputs.append(total)
    return torch.stack(outputs, dim=1)
