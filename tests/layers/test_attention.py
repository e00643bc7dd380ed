"""The design of ACmix and of cross-attention. test_every_layer.py compares them with their references."""

import pytest
import torch
import torch.nn.functional as F

from causalcxr.layers import ACmix, CausalDecoder, DisentangledCrossAttention
from reference.comparison import EXACT, normal


def test_every_part_is_called():
    """Otherwise hooks, adapters and pruning of a part would have no effect."""
    layer, called = ACmix(3, 4), set()
    for name, module in layer.named_children():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    layer(torch.zeros(1, 3, 4, 5))
    assert called == {"conv1", "conv2", "conv3", "conv_p", "fc", "dep_conv"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_has_the_memory_format_of_the_input(memory_format):
    layer, x = ACmix(3, 4).to(memory_format=memory_format), torch.zeros(2, 3, 9, 5)
    assert layer(x.to(memory_format=memory_format)).is_contiguous(memory_format=memory_format)


def test_no_window_is_stored_for_the_backward_pass():
    """Unfolded keys alone would take 49 maps."""
    layer, x = ACmix(8, 8), torch.randn(1, 8, 32, 32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        layer(x).sum()
    assert x.nbytes < sum(saved.values()) < 24 * x.nbytes


def test_new_layer_has_equal_rates_and_a_convolution_that_sums_shifted_maps():
    layer = ACmix(3, 4, num_heads=2).double()
    assert layer.rate1.item() == layer.rate2.item() == 0.5
    taps = normal(1, 2, 9, 4, 5)  # nine for each of the two channels of a head
    padded = F.pad(taps, (1, 1, 1, 1))
    expected = sum(padded[:, :, 3 * i + j, i : i + 4, j : j + 5] for i in range(3) for j in range(3))
    torch.testing.assert_close(layer.dep_conv(taps.flatten(1, 2)), expected.repeat_interleave(2, dim=1), **EXACT)


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
