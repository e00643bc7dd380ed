"""torchmetrics and scikit-learn measure what `causalcxr.metrics` measures."""

import numpy as np
import pytest
import torch

from causalcxr.data import NIH_LABELS
from causalcxr.metrics import auroc, expected_calibration_error

pytestmark = pytest.mark.integration


def test_torchmetrics_by_batches(example):
    """Logits with many ties in the last column, and targets of which some are unknown."""
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(300, 4, generator=generator) < 0.3).float()
    logits = 2 * torch.randn(300, 4, generator=generator) + targets
    logits[:, 3] = logits[:, 3].round()
    targets[::7, 1] = torch.nan
    module = example("torchmetrics_auroc")
    metrics = module.create_metrics(4)
    for scores, truth in zip(logits.sigmoid().split(64), module.as_integers(targets).split(64), strict=True):
        metrics.update(scores, truth)
    found = {name: value.double().numpy() for name, value in metrics.compute().items()}
    np.testing.assert_allclose(found["auroc"], auroc(logits, targets), atol=1e-6)
    np.testing.assert_allclose(found["ece"], expected_calibration_error(logits.sigmoid(), targets), atol=1e-6)


def test_torchmetrics_example_prints_equal_columns(printed, numbers):
    pytest.importorskip("torchmetrics")
    _, *rows = printed("torchmetrics_auroc").splitlines()
    assert [row.split()[0] for row in rows] == list(NIH_LABELS)
    found = np.array([numbers(row) for row in rows])
    np.testing.assert_allclose(found[:, 0::2], found[:, 1::2], atol=1.1e-4)  # the last digit may be rounded otherwise


def test_sklearn_example(printed, numbers):
    pytest.importorskip("sklearn")
    areas, _, errors, *report = printed("sklearn_scores").splitlines()
    *theirs, first, second = numbers(areas)
    assert theirs == [first, second]
    raw, scaled = np.split(np.array(numbers(errors)), 2)
    assert scaled.mean() < raw.mean()  # the shipped weights are not calibrated for generated films
    assert any(line.split()[:1] == ["Mass"] for line in report)
