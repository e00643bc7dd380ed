"""torchmetrics and scikit-learn measure what `causalcxr.metrics` measures."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from causalcxr.data import NIH_LABELS
from causalcxr.metrics import auroc, expected_calibration_error, reliability_curve

pytestmark = pytest.mark.integration


@pytest.fixture
def outcomes() -> tuple[Tensor, Tensor]:
    """Logits (300, 4), the last column with many ties, and targets, some of them unknown."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(300, 4, generator=generator) < 0.3).float()
    logits = 2 * torch.randn(300, 4, generator=generator) + targets
    logits[:, 3] = logits[:, 3].round()
    targets[::7, 1] = torch.nan
    return logits, targets


def test_torchmetrics_by_batches(example: Callable[[str], ModuleType], outcomes: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("torchmetrics")
    logits, targets = outcomes
    module = example("torchmetrics_auroc")
    metrics = module.create_metrics(4)
    for scores, truth in zip(logits.sigmoid().split(64), module.as_integers(targets).split(64), strict=True):
        metrics.update(scores, truth)
    found = {name: value.double().numpy() for name, value in metrics.compute().items()}
    np.testing.assert_allclose(found["auroc"], auroc(logits, targets), atol=1e-6)
    np.testing.assert_allclose(found["ece"], expected_calibration_error(logits.sigmoid(), targets), atol=1e-6)


@pytest.mark.filterwarnings("ignore:No positive samples in targets:UserWarning")
def test_torchmetrics_has_the_differences_that_the_example_names(example: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("torchmetrics")
    create_metrics = example("torchmetrics_auroc").create_metrics
    one_class = create_metrics(2)["auroc"]
    one_class.update(torch.tensor([[0.1, 0.1], [0.9, 0.9]]), torch.tensor([[0, 0], [0, 1]]))
    assert one_class.compute().tolist() == [0, 1]
    # Logits in two batches, of which the first happens to lie in [0, 1] and stays as it is; in the second 1.5 becomes
    # 0.82, below the 0.9 of the first, and -2 becomes 0.12, above its 0.1.
    logits = torch.tensor([[0.2, 0.9], [0.6, 0.1], [1.5, 1.5], [-2.0, -2.0]])
    targets = torch.tensor([[0, 0], [1, 1], [1, 1], [0, 0]])
    found = create_metrics(2)["auroc"]
    for batch, truth in zip(logits.split(2), targets.split(2), strict=True):
        found.update(batch, truth)
    assert auroc(logits, targets).tolist() == [1.0, 0.75]
    assert found.compute().tolist() == [1.0, 0.25]


def test_torchmetrics_example_prints_equal_columns(
    printed: Callable[[str], str], numbers: Callable[[str], list[float]]
) -> None:
    pytest.importorskip("torchmetrics")
    _, *rows = printed("torchmetrics_auroc").splitlines()
    assert [row.split()[0] for row in rows] == list(NIH_LABELS)
    found = np.array([numbers(row) for row in rows])
    np.testing.assert_allclose(found[:, 0::2], found[:, 1::2], atol=1.1e-4)  # the last digit may be rounded otherwise


def test_sklearn_label_by_label(outcomes: tuple[Tensor, Tensor]) -> None:
    metrics, calibration = pytest.importorskip("sklearn.metrics"), pytest.importorskip("sklearn.calibration")
    logits, targets = (values.double().numpy() for values in outcomes)
    probabilities = 1 / (1 + np.exp(-logits))
    curve = reliability_curve(probabilities, targets, n_bins=7)
    for k, area in enumerate(auroc(logits, targets)):
        known = ~np.isnan(targets[:, k])
        assert metrics.roc_auc_score(targets[known, k], logits[known, k]) == pytest.approx(area, abs=1e-12)
        frequency, confidence = calibration.calibration_curve(targets[known, k], probabilities[known, k], n_bins=7)
        full = curve.size[k] > 0
        np.testing.assert_allclose(frequency, curve.frequency[k, full], atol=1e-12)
        np.testing.assert_allclose(confidence, curve.confidence[k, full], atol=1e-12)


def test_platt_scaling_meets_the_frequency(
    example: Callable[[str], ModuleType], outcomes: tuple[Tensor, Tensor]
) -> None:
    """A logistic regression predicts, on what it was fitted to, the frequency on average, and keeps the order."""
    pytest.importorskip("sklearn")
    logits, targets = (values[:, [0, 3]].double().numpy() for values in outcomes)
    scaled = example("sklearn_scores").platt_scale(logits, targets, logits)
    np.testing.assert_allclose(scaled.mean(axis=0), targets.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(auroc(scaled, targets), auroc(logits, targets), atol=1e-12)


def test_sklearn_example(printed: Callable[[str], str], numbers: Callable[[str], list[float]]) -> None:
    pytest.importorskip("sklearn")
    areas, _, errors, *report = printed("sklearn_scores").splitlines()
    *theirs, first, second = numbers(areas)
    assert theirs == [first, second]
    raw, scaled = np.split(np.array(numbers(errors)), 2)
    assert scaled.mean() < raw.mean()  # the shipped weights are not calibrated for generated films
    assert {"Cardiomegaly", "Mass"} < {line.split()[0] for line in report if line}
