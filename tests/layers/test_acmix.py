"""ACmix against the pixel-by-pixel reference, and what its design promises."""

import pytest
import torch

from causalcxr.layers import ACmix
from reference.acmix import acmix
from reference.comparison import EXACT, normal, randomised

# Smaller than a window, attended to as a whole, and cut into blocks, of which some reach beyond the map.
MAPS = [(1, 1), (1, 4), (2, 3), (3, 2), (4, 3), (4, 9), (8, 8), (15, 14), (23, 14)]


def _layer(in_chs: int = 3, out_chs: int = 4, num_heads: int = 2, window: int = 7, kernel: int = 3) -> ACmix:
    return randomised(ACmix(in_chs, out_chs, num_heads=num_heads, attn_kernel_size=window, kernel_size=kernel))


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("batch", [1, 2])
def test_output_equals_the_reference_on_any_map(size: tuple[int, int], batch: int) -> None:
    layer, x = _layer(), normal(batch, 3, *size)
    torch.testing.assert_close(layer(x), acmix(x, layer.state_dict(), num_heads=2), **EXACT)


def test_every_part_is_called() -> None:
    """So that hooks, adapters and pruning of a part have an effect."""
    layer, called = _layer(), set()
    for name, module in layer.named_children():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    layer(normal(1, 3, 4, 5))
    assert called == {"conv1", "conv2", "conv3", "conv_p", "fc", "dep_conv"}


@pytest.mark.parametrize(
    ("in_chs", "out_chs", "num_heads", "window", "kernel"),
    [(2, 3, 1, 7, 3), (4, 6, 3, 3, 3), (3, 4, 4, 5, 1), (2, 4, 2, 1, 5), (1, 2, 1, 11, 3)],
)
def test_output_equals_the_reference_with_other_options(
    in_chs: int, out_chs: int, num_heads: int, window: int, kernel: int
) -> None:
    layer, x = _layer(in_chs, out_chs, num_heads, window, kernel), normal(1, in_chs, 3, 4)
    expected = acmix(x, layer.state_dict(), num_heads=num_heads, window=window, kernel=kernel)
    torch.testing.assert_close(layer(x), expected, **EXACT)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 3), (15, 14), (23, 14)])
def test_gradients_equal_those_of_the_reference(size: tuple[int, int]) -> None:
    layer, x, direction = _layer(), normal(1, 3, *size).requires_grad_(), normal(1, 4, *size, seed=2)
    weights = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    ours = torch.autograd.grad((layer(x) * direction).sum(), [x, *layer.parameters()])
    reference = (acmix(x, weights, num_heads=2) * direction).sum()
    theirs = torch.autograd.grad(reference, [x, *weights.values()])
    for name, given, expected in zip(["x", *weights], ours, theirs, strict=True):
        torch.testing.assert_close(given, expected, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_empty_batch_stays_empty() -> None:
    assert _layer()(normal(0, 3, 9, 10)).shape == (0, 4, 9, 10)
    assert _layer()(normal(0, 3, 20, 21)).shape == (0, 4, 20, 21)


def test_attention_averages_a_constant_value_to_itself() -> None:
    layer = _layer()
    with torch.no_grad():
        layer.conv3.weight.zero_()
        layer.rate1.fill_(1)
        layer.rate2.fill_(0)
        output = layer(normal(2, 3, 5, 4))
    torch.testing.assert_close(output, layer.conv3.bias.detach().view(1, 4, 1, 1).expand(2, 4, 5, 4), **EXACT)


def test_attention_sees_its_window_and_no_further() -> None:
    layer = _layer(window=3)
    with torch.no_grad():
        layer.rate2.fill_(0)
    x = normal(1, 3, 7, 7)
    changed = x.clone()
    changed[..., 3, 3] += 1
    with torch.no_grad():
        differs = (layer(x) != layer(changed)).any(dim=1)[0]
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(differs, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_has_the_memory_format_of_the_input(memory_format: torch.memory_format) -> None:
    layer = _layer().to(memory_format=memory_format)
    assert layer(normal(2, 3, 9, 5).to(memory_format=memory_format)).is_contiguous(memory_format=memory_format)


def test_no_window_is_stored_for_the_backward_pass() -> None:
    """Unfolded keys alone would be 49 maps."""
    layer, x = ACmix(8, 8).float(), torch.randn(1, 8, 32, 32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        layer(x).sum()
    assert sum(saved.values()) < 24 * x.nbytes


def test_convolution_starts_as_a_sum_of_shifted_maps() -> None:
    layer = ACmix(3, 4, num_heads=2).double()
    with torch.no_grad():
        layer.rate1.fill_(0)
        layer.rate2.fill_(1)
        layer.fc.weight.zero_()
        layer.fc.weight[0, 2] = 1  # tap (-1, -1) takes the first head of k
        x = normal(1, 3, 4, 5)
        output = layer(x)
        k = layer.conv2(x)[:, :2]
    expected = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    expected[..., 1:, 1:] = k[..., :-1, :-1]
    torch.testing.assert_close(output, expected.repeat_interleave(2, dim=1), **EXACT)


def test_fresh_layer_has_equal_rates_and_reset_restores_it() -> None:
    layer = _layer()
    layer.reset_parameters()
    fresh = ACmix(3, 4, num_heads=2).double()
    for name in ("rate1", "rate2", "dep_conv.weight", "dep_conv.bias"):
        torch.testing.assert_close(layer.get_parameter(name), fresh.get_parameter(name), rtol=0, atol=0)
    assert layer.rate1.item() == layer.rate2.item() == 0.5


def test_parameters_have_the_published_names_and_shapes() -> None:
    shapes = {name: tuple(value.shape) for name, value in ACmix(64, 128, num_heads=4).state_dict().items()}
    assert shapes == {
        "rate1": (1,),
        "rate2": (1,),
        "conv1.weight": (128, 64, 1, 1),
        "conv1.bias": (128,),
        "conv2.weight": (128, 64, 1, 1),
        "conv2.bias": (128,),
        "conv3.weight": (128, 64, 1, 1),
        "conv3.bias": (128,),
        "conv_p.weight": (32, 2, 1, 1),
        "conv_p.bias": (32,),
        "fc.weight": (9, 12, 1, 1),
        "dep_conv.weight": (128, 9, 3, 3),
        "dep_conv.bias": (128,),
    }


def test_repr_names_the_options() -> None:
    assert "num_heads=2, attn_kernel_size=5" in repr(_layer(window=5))


@pytest.mark.parametrize("kernels", [{"attn_kernel_size": 4}, {"kernel_size": 2}, {"attn_kernel_size": -1}])
def test_kernels_must_be_odd_and_positive(kernels: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"attn_kernel_size and kernel_size must be odd and positive, but got -?\d"):
        ACmix(3, 4, num_heads=2, **kernels)


@pytest.mark.parametrize(("out_chs", "num_heads"), [(10, 4), (0, 1), (4, 0)])
def test_width_must_split_into_heads(out_chs: int, num_heads: int) -> None:
    with pytest.raises(
        ValueError, match=f"width must be a positive multiple of num_heads, but got {out_chs} and {num_heads}"
    ):
        ACmix(3, out_chs, num_heads=num_heads)


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 5, 5)])
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"x must have shape \(B, C, H, W\), C=3, but got \({shape[0]}, "):
        ACmix(3, 4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 5, 5, dtype=torch.uint8), r"but got dtype torch.uint8; use x.float\(\)"),
        ([[0.0]], r"x must be a floating-point tensor of shape \(B C H W\), but got list"),
    ],
)
def test_input_of_another_type_is_refused(x: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ACmix(3, 4)(x)
