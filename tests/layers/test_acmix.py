"""ACmix against the pixel-by-pixel reference, and the properties of its design."""

import pytest
import torch

from causalcxr.layers import ACmix
from reference.acmix import acmix
from reference.comparison import EXACT, normal, randomised

# Smaller than a window, attended to as a whole, and cut into blocks, some of which overhang the map.
MAPS = [(1, 1), (1, 4), (3, 2), (4, 9), (23, 14)]


def _layer(in_chs=3, out_chs=4, num_heads=2, window=7, kernel=3):
    return randomised(ACmix(in_chs, out_chs, num_heads=num_heads, attn_kernel_size=window, kernel_size=kernel))


@pytest.mark.parametrize("size", MAPS)
def test_output_equals_the_reference_on_any_map(size):
    layer, x = _layer(), normal(2, 3, *size)
    torch.testing.assert_close(layer(x), acmix(x, layer.state_dict(), num_heads=2), **EXACT)
    assert layer(x[:0]).shape == (0, 4, *size)


@pytest.mark.parametrize(
    ("in_chs", "out_chs", "num_heads", "window", "kernel"),
    [(2, 3, 1, 7, 3), (4, 6, 3, 3, 3), (3, 4, 4, 5, 1), (2, 4, 2, 1, 5), (1, 2, 1, 11, 3)],
)
def test_output_equals_the_reference_with_other_options(in_chs, out_chs, num_heads, window, kernel):
    layer, x = _layer(in_chs, out_chs, num_heads, window, kernel), normal(1, in_chs, 3, 4)
    expected = acmix(x, layer.state_dict(), num_heads=num_heads, window=window, kernel=kernel)
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_every_part_is_called():
    """Otherwise hooks, adapters and pruning of a part would have no effect."""
    layer, called = _layer(), set()
    for name, module in layer.named_children():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    layer(normal(1, 3, 4, 5))
    assert called == {"conv1", "conv2", "conv3", "conv_p", "fc", "dep_conv"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_has_the_memory_format_of_the_input(memory_format):
    layer = _layer().to(memory_format=memory_format)
    assert layer(normal(2, 3, 9, 5).to(memory_format=memory_format)).is_contiguous(memory_format=memory_format)


def test_no_window_is_stored_for_the_backward_pass():
    """Unfolded keys alone would take 49 maps."""
    layer, x = ACmix(8, 8).float(), torch.randn(1, 8, 32, 32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        layer(x).sum()
    assert sum(saved.values()) < 24 * x.nbytes


def test_layer_starts_with_equal_rates_and_a_sum_of_shifted_maps():
    layer = _layer()
    layer.reset_parameters()
    assert layer.rate1.item() == layer.rate2.item() == 0.5
    with torch.no_grad():
        layer.rate1.fill_(0)
        layer.rate2.fill_(1)
        layer.fc.weight.zero_()
        layer.fc.weight[0, 2] = 1  # tap (-1, -1) takes the first head of k
        x = normal(1, 3, 4, 5)
        output, k = layer(x), layer.conv2(x)[:, :2]
    expected = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    expected[..., 1:, 1:] = k[..., :-1, :-1]
    torch.testing.assert_close(output, expected.repeat_interleave(2, dim=1), **EXACT)
