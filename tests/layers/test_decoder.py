"""The decoder against the layer-by-layer reference."""

import pytest
import torch

from causalcxr.layers import CausalDecoder
from reference.comparison import EXACT, normal, randomised
from reference.decoder import causal_decoder, sincos_position


def _decoder(*, depth=2, complement="normalized", proj_drop=0.0):
    return randomised(CausalDecoder(3, 8, depth=depth, num_heads=2, complement=complement, proj_drop=proj_drop))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 1)])
@pytest.mark.parametrize("need_attention", [False, True])
@pytest.mark.parametrize(("depth", "complement"), [(1, "normalized"), (2, "normalized"), (3, "paper")])
def test_output_equals_the_reference(depth, complement, need_attention, size):
    decoder, features = _decoder(depth=depth, complement=complement), normal(2, 8, *size)
    output = decoder(features, need_attention=need_attention)
    position = sincos_position(*size, 8)
    causal, confounder, attention = causal_decoder(
        features, decoder.state_dict(), position, depth=depth, num_heads=2, complement=complement
    )
    positions_are_float32 = {"rtol": 0, "atol": 2e-5}
    torch.testing.assert_close(output.causal, causal, **positions_are_float32)
    torch.testing.assert_close(output.confounder, confounder, **positions_are_float32)
    if need_attention:
        torch.testing.assert_close(output.attention, attention, **positions_are_float32)
    else:
        assert output.attention is None


def test_dropout_acts_in_training_alone():
    decoder, plain, features = _decoder(proj_drop=0.5), _decoder(), normal(1, 8, 2, 3)
    torch.testing.assert_close(decoder.eval()(features).causal, plain(features).causal, **EXACT)
    torch.manual_seed(0)
    assert not torch.allclose(decoder.train()(features).causal, plain(features).causal, atol=1e-3)
