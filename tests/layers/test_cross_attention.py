"""Disentangled cross-attention against a reference that computes softmax and 1 - softmax explicitly."""

import pytest
import torch

from causalcxr.layers import DisentangledCrossAttention
from reference.comparison import EXACT, normal, randomised
from reference.cross_attention import disentangled_attention


def _layer(complement="normalized", *, dim=6, num_heads=3):
    return randomised(DisentangledCrossAttention(dim, num_heads=num_heads, complement=complement))


@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize("complement", ["normalized", "paper"])
@pytest.mark.parametrize(("num_queries", "num_tokens", "num_heads"), [(1, 5, 6), (4, 5, 1), (4, 5, 3), (4, 1, 2)])
def test_outputs_and_gradients_equal_the_reference(num_queries, num_tokens, num_heads, complement, need_attention):
    """With a single token there is no complement."""
    layer = _layer(complement, num_heads=num_heads)
    inputs = [normal(2, n, 6, seed=seed).requires_grad_() for seed, n in enumerate((num_queries, num_tokens))]
    inputs.append(inputs[1] if need_attention else normal(2, num_tokens, 6, seed=2).requires_grad_())
    weights = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    output = layer(*inputs[: 2 if need_attention else 3], need_attention=need_attention)  # value defaults to key
    expected = disentangled_attention(*inputs, weights, num_heads=num_heads, complement=complement)
    torch.testing.assert_close(output[:2], expected[:2], **EXACT)
    if need_attention:
        torch.testing.assert_close(output.attention, expected[2], **EXACT)
    else:
        assert output.attention is None
    direction = normal(2, 2, num_queries, 6, seed=4)
    ours, theirs = (
        torch.autograd.grad((x * direction[0] + c * direction[1]).sum(), [*inputs, *parameters])
        for (x, c), parameters in ((output[:2], layer.parameters()), (expected[:2], weights.values()))
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_no_map_is_stored_for_the_backward_pass():
    layer, query, key = _layer(dim=32, num_heads=2).float(), torch.randn(2, 14, 32), torch.randn(2, 50, 32)
    for need_attention in (False, True):
        shapes = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.add(tuple(t.shape)) or t, lambda t: t):  # noqa: B023
            layer(query, key, need_attention=need_attention)
        has_a_map = any(shape[-1] == 50 and shape[-2] == 14 for shape in shapes if len(shape) > 2)
        assert has_a_map == need_attention  # the requested map shows that the test can detect one


def test_long_queries_and_keys_do_not_overflow_float16():
    layer = DisentangledCrossAttention(16, num_heads=1).half()
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
            projection.weight.copy_(torch.eye(16))
            if projection.bias is not None:
                projection.bias.zero_()
        query = torch.full((1, 1, 16), 100.0, dtype=torch.float16)  # its dot product with itself is 160,000
        output = layer(query, query.repeat(1, 3, 1), need_attention=True)
    torch.testing.assert_close(output.attention, torch.full((1, 1, 1, 3), 1 / 3, dtype=torch.float16))
    assert bool(output.causal.isfinite().all())
