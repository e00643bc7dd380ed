"""What the tests of devices share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Convolutions in float32 where float32 is asked for."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
