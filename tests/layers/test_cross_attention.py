"""Disentangled cross-attention against the reference that forms softmax and 1 - softmax."""

import pytest
import torch
from torch import Tensor

from causalcxr.layers import DisentangledCrossAttention
from reference.comparison import EXACT, normal, randomised
from reference.cross_attention import disentangled_attention


def _layer(complement: str = "normalized", *, dim: int = 6, num_heads: int = 3) -> DisentangledCrossAttention:
    return randomised(DisentangledCrossAttention(dim, num_heads=num_heads, complement=complement))


def _inputs(num_tokens: int = 5, num_queries: int = 4) -> list[Tensor]:
    shapes = (num_queries, num_tokens, num_tokens)
    return [normal(2, n, 6, seed=seed).requires_grad_() for seed, n in enumerate(shapes)]


@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize("complement", ["normalized", "paper"])
@pytest.mark.parametrize(("num_queries", "num_tokens"), [(1, 5), (4, 5), (4, 1)])
def test_outputs_and_gradients_equal_the_reference(
    num_queries: int, num_tokens: int, complement: str, need_attention: bool
) -> None:
    """With a single token there is no complement."""
    layer, inputs = _layer(complement), _inputs(num_tokens, num_queries)
    weights = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    output = layer(*inputs, need_attention=need_attention)
    expected = disentangled_attention(*inputs, weights, num_heads=3, complement=complement)
    if need_attention:
        torch.testing.assert_close(tuple(output), expected, **EXACT)
    else:
        assert output.attention is None
        torch.testing.assert_close(tuple(output[:2]), expected[:2], **EXACT)
    direction = normal(2, 2, num_queries, 6, seed=4)
    ours, theirs = (
        torch.autograd.grad((x * direction[0] + c * direction[1]).sum(), [*inputs, *parameters])
        for (x, c), parameters in ((output[:2], layer.parameters()), (expected[:2], weights.values()))
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_outputs_equal_the_reference_with_other_heads(num_heads: int) -> None:
    layer, (query, key, _) = _layer(num_heads=num_heads), _inputs()
    weights = layer.state_dict()
    expected = disentangled_attention(query, key, key, weights, num_heads=num_heads, complement="normalized")
    torch.testing.assert_close(tuple(layer(query, key)[:2]), expected[:2], **EXACT)  # the value defaults to the key


def test_no_map_is_stored_for_the_backward_pass() -> None:
    layer, query, key = _layer(dim=32, num_heads=2).float(), torch.randn(2, 14, 32), torch.randn(2, 50, 32)
    for need_attention in (False, True):
        shapes: set[tuple[int, ...]] = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.add(tuple(t.shape)) or t, lambda t: t):  # noqa: B023
            layer(query, key, need_attention=need_attention)
        has_a_map = any(shape[-1] == 50 and shape[-2] == 14 for shape in shapes if len(shape) > 2)
        assert has_a_map == need_attention  # a map that is asked for is the sign that the test would notice one


def test_long_queries_and_keys_do_not_overflow_float16() -> None:
    layer = DisentangledCrossAttention(16, num_heads=1).half()
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
            projection.weight.copy_(torch.eye(16))
            if projection.bias is not None:
                projection.bias.zero_()
        query = torch.full((1, 1, 16), 100.0, dtype=torch.float16)  # its product with itself is 160,000
        output = layer(query, query.repeat(1, 3, 1), need_attention=True)
    torch.testing.assert_close(output.attention, torch.full((1, 1, 1, 3), 1 / 3, dtype=torch.float16))
    assert bool(output.causal.isfinite().all())
