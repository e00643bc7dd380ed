"""AUROC against scikit-learn, with and without ties, and the worst group against a literal loop."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causalcxr.metrics import auroc, bootstrap_auroc, worst_group_auroc

EXACT = {"rtol": 0, "atol": 1e-12}


def _problem(n: int = 400, k: int = 4, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of their targets; few decimals make ties, later labels are commoner."""
    rng = np.random.default_rng(0)
    targets = (rng.random((n, k)) < np.linspace(0.08, 0.85, k)).astype(float)
    scores = rng.normal(size=(n, k)) + targets
    return (scores if decimals is None else scores.round(decimals)), targets


def _sklearn(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    result = []
    for k in range(scores.shape[1]):
        known = ~np.isnan(targets[:, k])
        result.append(roc_auc_score(targets[known, k], scores[known, k]))
    return np.array(result)


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["continuous", "ties", "heavy ties"])
def test_auroc_equals_sklearn(decimals):
    scores, targets = _problem(decimals=decimals)
    np.testing.assert_allclose(auroc(scores, targets), _sklearn(scores, targets), **EXACT)


def test_auroc_closed_forms():
    targets = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = [[4, 1, 7, 2], [3, 2, 7, 4], [2, 3, 7, 3], [1, 4, 7, 1]]  # pairs won: all, none, all tied, 3 of 4
    np.testing.assert_array_equal(auroc(scores, targets), [1.0, 0.0, 0.5, 0.75])


def test_auroc_masks_unknown_targets_label_by_label():
    scores, targets = _problem(decimals=1)
    targets[np.random.default_rng(1).random(targets.shape) < 0.3] = np.nan
    np.testing.assert_allclose(auroc(scores, targets), _sklearn(scores, targets), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_auroc_takes_tensors_of_any_floating_type(dtype):
    scores, targets = _problem()
    given = torch.tensor(scores, dtype=dtype, requires_grad=True)
    result = auroc(given, torch.tensor(targets, dtype=torch.bool))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, _sklearn(given.detach().double().numpy(), targets), **EXACT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auroc_takes_tensors_on_another_device():
    scores, targets = _problem()
    result = auroc(torch.tensor(scores, device="cuda"), torch.tensor(targets, device="cuda"))
    np.testing.assert_array_equal(result, auroc(scores, targets))


def test_one_label_may_be_given_as_a_vector():
    scores, targets = _problem(k=1)
    assert auroc(scores[:, 0], targets[:, 0]).shape == (1,)
    np.testing.assert_array_equal(auroc(scores[:, 0], targets[:, 0]), auroc(scores, targets))


def test_label_with_one_class_is_nan_and_named():
    scores, targets = _problem()
    targets[:, 1], targets[:, 3] = 0, np.nan
    with pytest.warns(UserWarning, match=r"labels \[1, 3\]") as caught:
        result = auroc(scores, targets)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(np.isnan(result), [False, True, False, True])


def test_worst_group_equals_a_literal_loop():
    scores, targets = _problem(n=300, decimals=1)
    groups = np.array(["AP", "PA", "LL"])[np.random.default_rng(2).choice(3, size=300, p=[0.5, 0.45, 0.05])]
    targets[groups == "LL", 0] = 1  # the smallest group has one class of the first label
    expected = []
    for k in range(targets.shape[1]):
        values = []
        for name in ("AP", "PA", "LL"):
            rows = groups == name
            if len(set(targets[rows, k])) == 2:
                values.append(roc_auc_score(targets[rows, k], scores[rows, k]))
        expected.append(min(values))
    np.testing.assert_allclose(worst_group_auroc(scores, targets, groups), expected, **EXACT)
    given = torch.tensor(scores), torch.tensor(targets), torch.tensor(np.unique(groups, return_inverse=True)[1])
    np.testing.assert_allclose(worst_group_auroc(*given), expected, **EXACT)


def test_a_label_that_follows_the_group_alone_fails_within_it():
    groups = np.repeat([0, 1], 50)
    targets = np.concatenate([np.arange(50) % 10 == 0, np.arange(50) % 10 != 0]).astype(float)
    assert auroc(groups, targets)[0] == 0.9
    assert worst_group_auroc(groups, targets, groups)[0] == 0.5


def test_label_defined_in_no_group_is_nan_and_named():
    scores, targets = np.arange(8.0).reshape(4, 2), [[0, 0], [1, 0], [0, 1], [1, 1]]
    with pytest.warns(UserWarning, match=r"labels \[1\]") as caught:
        result = worst_group_auroc(scores, targets, ["a", "a", "b", "b"])
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(result, [1.0, np.nan])


@pytest.mark.parametrize(
    "function",
    [auroc, bootstrap_auroc, lambda scores, targets: worst_group_auroc(scores, targets, range(len(scores)))],
    ids=["auroc", "bootstrap_auroc", "worst_group_auroc"],
)
@pytest.mark.parametrize(
    ("scores", "targets", "given"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), r"\(4, 2\) and \(4, 3\)"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2, 2)), r"\(4, 2, 2\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"\(0, 2\)"),
        ([[0.1], [np.nan], [np.inf]], [[0], [1], [1]], "2 of 3"),
        ([[0.1], [0.2]], [[0], [-1]], "-1"),
    ],
)
def test_bad_scores_and_targets_are_refused(function, scores, targets, given):
    with pytest.raises(ValueError, match=given):
        function(scores, targets)


@pytest.mark.parametrize("groups", [[1, 2, 3], [[1], [2], [3], [4]], [1.0, np.nan, 2.0, 2.0], ["a", None, "a", "b"]])
def test_bad_groups_are_refused(groups):
    given = [[0.1], [0.2], [0.3], [0.4]], [[0], [1], [0], [1]], groups
    for function in (worst_group_auroc, bootstrap_auroc):
        with pytest.raises(ValueError, match="groups must"):
            function(*given)
