"""What cross-attention stores, and where it could overflow. test_every_layer.py compares it with its reference."""

import torch

from causalcxr.layers import CausalDecoder, DisentangledCrossAttention
from reference.comparison import normal


def test_no_map_is_stored_for_the_backward_pass():
    layer, query, key = DisentangledCrossAttention(32, num_heads=2), torch.randn(2, 14, 32), torch.randn(2, 50, 32)
    for need_attention in (False, True):
        shapes = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.add(tuple(t.shape)) or t, lambda t: t):  # noqa: B023
            layer(query, key, need_attention=need_attention)
        has_a_map = any(shape[-1] == 50 and shape[-2] == 14 for shape in shapes if len(shape) > 2)
        assert has_a_map == need_attention  # the requested map shows that the test can detect one


def test_long_queries_and_keys_do_not_overflow_float16():
    layer = DisentangledCrossAttention(16, num_heads=1).half()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.zeros(16) if name.endswith("bias") else torch.eye(16))
        query = torch.full((1, 1, 16), 100.0, dtype=torch.float16)  # its dot product with itself is 160,000
        output = layer(query, query.repeat(1, 3, 1), need_attention=True)  # the keys are also the values
    torch.testing.assert_close(output.attention, torch.full((1, 1, 1, 3), 1 / 3, dtype=torch.float16))
    torch.testing.assert_close(output.causal, query)


def test_dropout_of_the_decoder_acts_in_training_alone():
    decoder, features = CausalDecoder(3, 8, num_heads=2, proj_drop=0.5), normal(1, 8, 2, 3).float()
    first, second = (decoder.eval()(features).causal for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    assert not torch.allclose(decoder.train()(features).causal, first, atol=1e-3)
