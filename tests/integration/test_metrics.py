"""torchmetrics and scikit-learn measure what `causalcxr.metrics` measures."""

import numpy as np
import pytest

from causalcxr.data import NIH_LABELS

pytestmark = pytest.mark.integration


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
