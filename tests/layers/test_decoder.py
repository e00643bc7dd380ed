"""The decoder against the layer-by-layer reference."""

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from causalcxr.layers import CausalDecoder
from reference.comparison import EXACT, normal, randomised
from reference.decoder import causal_decoder, sincos_position


def _decoder(
    num_classes: int = 3, dim: int = 8, *, depth: int = 2, complement: str = "normalized", **kwargs: float
) -> CausalDecoder:
    return randomised(CausalDecoder(num_classes, dim, depth=depth, num_heads=2, complement=complement, **kwargs))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32)])
def test_table_of_positions_is_the_sine_and_cosine_of_row_and_column(size: tuple[int, int]) -> None:
    """The table is a float32 constant: at 32 cells sin(31) is known to some 31 times 1e-7."""
    table = build_sincos2d_pos_embed(list(size), 8, dtype=torch.float32)
    torch.testing.assert_close(table.double(), sincos_position(*size, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize(("depth", "complement"), [(1, "normalized"), (2, "normalized"), (3, "paper")])
def test_output_equals_the_reference(depth: int, complement: str, need_attention: bool) -> None:
    decoder, features = _decoder(depth=depth, complement=complement), normal(2, 8, 2, 3)
    output = decoder(features, need_attention=need_attention)
    table = build_sincos2d_pos_embed([2, 3], 8, dtype=torch.float32).double()
    causal, confounder, attention = causal_decoder(
        features, decoder.state_dict(), table, depth=depth, num_heads=2, complement=complement
    )
    torch.testing.assert_close(output.causal, causal, **EXACT)
    torch.testing.assert_close(output.confounder, confounder, **EXACT)
    if need_attention:
        torch.testing.assert_close(output.attention, attention, **EXACT)
    else:
        assert output.attention is None


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2)])
def test_attention_maps_have_the_shape_of_the_feature_map_and_sum_to_one(size: tuple[int, int]) -> None:
    attention = _decoder()(normal(2, 8, *size), need_attention=True).attention
    assert attention.shape == (2, 3, *size)
    torch.testing.assert_close(attention.sum(dim=(-2, -1)), torch.ones(2, 3, dtype=torch.float64), **EXACT)


def test_labels_do_not_see_each_other() -> None:
    decoder, features = _decoder(num_classes=4), normal(2, 8, 2, 3)
    output = decoder(features)
    kept = torch.tensor([2, 0])
    embeddings = decoder.label_embed.weight.detach()[kept]
    decoder.reset_classes(2)
    with torch.no_grad():
        decoder.double().label_embed.weight.copy_(embeddings)
    fewer = decoder(features)
    torch.testing.assert_close(fewer.causal, output.causal[:, kept], **EXACT)
    torch.testing.assert_close(fewer.confounder, output.confounder[:, kept], **EXACT)


def test_positions_tell_the_places_of_cells_apart() -> None:
    decoder, features = _decoder(), normal(1, 8, 2, 3)
    assert not torch.allclose(decoder(features).causal, decoder(features.flip(-1)).causal, atol=1e-3)


def test_dropout_acts_in_training_alone() -> None:
    decoder, plain, features = _decoder(proj_drop=0.5), _decoder(), normal(1, 8, 2, 3)
    torch.testing.assert_close(decoder.eval()(features).causal, plain(features).causal, **EXACT)
    torch.manual_seed(0)
    assert not torch.allclose(decoder.train()(features).causal, plain(features).causal, atol=1e-3)


def test_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of 4 for sine-cosine positions, but got 6"):
        CausalDecoder(3, 6, num_heads=2)


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, but got 0"):
        CausalDecoder(3, 8, depth=0)


def test_number_of_labels_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="num_classes must be 0 or more, but got -1"):
        CausalDecoder(-1, 8)


def test_decoder_without_labels_says_how_to_get_some() -> None:
    with pytest.raises(ValueError, match=r"no labels \(num_classes=0\); give it some with reset_classes"):
        _decoder(num_classes=0)(normal(1, 8, 2, 3))


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must have shape \(B, D, H, W\), D=8, but got \(1, 4, 2, 3\)"):
        _decoder()(normal(1, 4, 2, 3))


def test_integer_features_are_refused() -> None:
    with pytest.raises(TypeError, match="features must be a floating-point tensor"):
        _decoder()(torch.zeros(1, 8, 2, 3, dtype=torch.long))
