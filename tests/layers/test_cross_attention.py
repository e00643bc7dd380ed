"""Disentangled cross-attention against the reference that forms softmax and 1 - softmax, and its identities."""

import pytest
import torch
from torch import Tensor

from causalcxr.layers import DisentangledCrossAttention
from reference.comparison import EXACT, normal, randomised
from reference.cross_attention import disentangled_attention

COMPLEMENTS = ["normalized", "paper"]


def _layer(complement: str = "normalized", *, dim: int = 6, num_heads: int = 3) -> DisentangledCrossAttention:
    return randomised(DisentangledCrossAttention(dim, num_heads=num_heads, complement=complement))


def _inputs(batch: int = 2, num_tokens: int = 5, num_queries: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return normal(batch, num_queries, 6), normal(batch, num_tokens, 6, seed=2), normal(batch, num_tokens, 6, seed=3)


@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize("complement", COMPLEMENTS)
@pytest.mark.parametrize("num_queries", [1, 4])
def test_outputs_and_gradients_equal_the_reference(num_queries: int, complement: str, need_attention: bool) -> None:
    layer, inputs = _layer(complement), [t.requires_grad_() for t in _inputs(num_queries=num_queries)]
    weights = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    output = layer(*inputs, need_attention=need_attention)
    causal, confounder, attention = disentangled_attention(*inputs, weights, num_heads=3, complement=complement)
    torch.testing.assert_close(output.causal, causal, **EXACT)
    torch.testing.assert_close(output.confounder, confounder, **EXACT)
    if need_attention:
        torch.testing.assert_close(output.attention, attention, **EXACT)
    else:
        assert output.attention is None
    directions = normal(2, *causal.shape, seed=4)
    ours = torch.autograd.grad(
        (output.causal * directions[0] + output.confounder * directions[1]).sum(), [*inputs, *layer.parameters()]
    )
    theirs = torch.autograd.grad(
        (causal * directions[0] + confounder * directions[1]).sum(), [*inputs, *weights.values()]
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_outputs_equal_the_reference_with_other_heads(num_heads: int) -> None:
    layer = _layer(num_heads=num_heads)
    query, key, _ = _inputs(batch=1)
    output = layer(query, key)  # the value defaults to the key
    causal, confounder, _ = disentangled_attention(
        query, key, key, layer.state_dict(), num_heads=num_heads, complement="normalized"
    )
    torch.testing.assert_close(output.causal, causal, **EXACT)
    torch.testing.assert_close(output.confounder, confounder, **EXACT)


def test_rows_of_the_attention_sum_to_one() -> None:
    attention = _layer()(*_inputs(), need_attention=True).attention
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3, 4, dtype=torch.float64), **EXACT)


def test_both_branches_add_up_to_the_sum_of_the_values() -> None:
    """A v + (1 - A) v = sum_n v_n before the projection, so their projections share one bias too many."""
    layer = _layer("paper")
    query, key, value = _inputs()
    output = layer(query, key, value)
    total = layer.out_proj(layer.v_proj(value).sum(dim=1, keepdim=True)) + layer.out_proj.bias
    torch.testing.assert_close(output.causal + output.confounder, total.expand(2, 4, 6), **EXACT)


def test_paper_form_is_n_minus_one_times_the_normalized_one() -> None:
    """The projection's bias comes after: paper - b = (N - 1) (normalized - b)."""
    normalized, paper = _layer("normalized"), _layer("paper")
    bias = normalized.out_proj.bias
    torch.testing.assert_close(
        paper(*_inputs()).confounder - bias, 4 * (normalized(*_inputs()).confounder - bias), **EXACT
    )


def test_normalized_complement_of_constant_values_is_their_projection() -> None:
    """A weighted mean, with weights (1 - A) / (N - 1) that sum to 1, leaves a constant alone."""
    layer = _layer()
    query, key, _ = _inputs()
    value = normal(1, 1, 6, seed=5).expand(2, 5, 6)
    expected = layer.out_proj(layer.v_proj(value[:, :1])).expand(2, 4, 6)
    torch.testing.assert_close(layer(query, key, value).confounder, expected, **EXACT)


@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize("complement", COMPLEMENTS)
def test_single_token_has_no_complement(complement: str, need_attention: bool) -> None:
    layer, inputs = _layer(complement), _inputs(num_tokens=1)
    output = layer(*inputs, need_attention=need_attention)
    torch.testing.assert_close(output.confounder, layer.out_proj.bias.expand(2, 4, 6), **EXACT)
    torch.testing.assert_close(output.causal, layer.out_proj(layer.v_proj(inputs[2])).expand(2, 4, 6), **EXACT)
    for gradient in torch.autograd.grad(output.confounder.sum(), list(layer.parameters()), allow_unused=True):
        assert gradient is None or bool(gradient.isfinite().all())


def test_order_of_the_tokens_does_not_matter() -> None:
    layer, order = _layer(), torch.tensor([3, 0, 4, 1, 2])
    query, key, value = _inputs()
    torch.testing.assert_close(layer(query, key, value)[:2], layer(query, key[:, order], value[:, order])[:2], **EXACT)


def test_no_map_is_stored_for_the_backward_pass() -> None:
    dim = 32
    layer = _layer(dim=dim, num_heads=2).float()
    query, key = torch.randn(2, 14, dim), torch.randn(2, 50, dim)
    for need_attention in (False, True):
        shapes: set[tuple[int, ...]] = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.add(tuple(t.shape)) or t, lambda t: t):  # noqa: B023
            layer(query, key, need_attention=need_attention)
        has_a_map = any(shape[-1] == 50 and shape[-2] == 14 for shape in shapes if len(shape) > 2)
        assert has_a_map == need_attention  # a map that is asked for is the sign that the test would notice one


def test_repr_names_the_options() -> None:
    assert "num_heads=3, complement='paper'" in repr(_layer("paper"))


@pytest.mark.parametrize(("dim", "num_heads"), [(6, 4), (0, 1)])
def test_width_must_split_into_heads(dim: int, num_heads: int) -> None:
    with pytest.raises(ValueError, match=f"positive multiple of num_heads, but got {dim} and {num_heads}"):
        DisentangledCrossAttention(dim, num_heads=num_heads)


def test_unknown_complement_is_refused() -> None:
    with pytest.raises(ValueError, match="complement must be one of 'normalized', 'paper', but got 'printed'"):
        DisentangledCrossAttention(6, num_heads=3, complement="printed")


@pytest.mark.parametrize(
    ("query", "key", "value", "message"),
    [
        ((2, 4, 5), (2, 5, 6), None, r"query must have shape \(B, K, D\), D=6, but got \(2, 4, 5\)"),
        ((2, 4, 6), (1, 5, 6), None, r"key must have shape \(B, N, D\), B=2, D=6, but got \(1, 5, 6\)"),
        ((2, 4, 6), (2, 5, 6), (2, 4, 6), r"value must have shape \(B, N, D\), B=2, N=5, D=6, but got \(2, 4, 6\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...] | None, message: str
) -> None:
    layer = DisentangledCrossAttention(6, num_heads=3)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(query), torch.zeros(key), None if value is None else torch.zeros(value))


def test_integer_query_is_refused() -> None:
    with pytest.raises(TypeError, match=r"query must be a floating-point tensor .* dtype torch.int64"):
        _layer()(torch.zeros(2, 4, 6, dtype=torch.long), torch.zeros(2, 5, 6))
