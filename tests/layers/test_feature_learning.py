"""The encoder against the literal reference."""

import pytest
import torch

from causalcxr.layers import FeatureLearning
from reference.comparison import EXACT, normal, randomised
from reference.feature_learning import feature_learning


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(1, (4, 3)), (3, (2, 3)), (4, (1, 1))])
def test_output_equals_the_reference(batch, size, training):
    layer, x = randomised(FeatureLearning(5, 4, num_heads=2)), normal(batch, 5, *size)
    layer.train(training)
    expected = feature_learning(x, layer.state_dict(), num_heads=2, training=training)
    torch.testing.assert_close(layer(x), expected, **EXACT)
