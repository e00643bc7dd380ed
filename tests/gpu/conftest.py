"""What the tests of devices share."""

import pytest
import torch


@pytest.fixture
def full_precision():
    """Convolutions in float32 where float32 is asked for."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
