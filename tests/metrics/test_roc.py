"""AUROC against scikit-learn, with and without ties, and the worst group against a literal loop."""

import numpy as np
import pytest
import torch

from causalcxr.metrics import auroc, worst_group_auroc
from reference.auroc import Frame, draw, sklearn_auroc
from reference.comparison import DEVICES

EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("decimals", [9, 0], ids=["continuous", "heavy ties"])
def test_auroc_equals_sklearn(decimals):
    (scores, *_), targets, _ = draw(n=400, k=4, decimals=decimals)
    np.testing.assert_allclose(auroc(scores, targets), sklearn_auroc(scores, targets), **EXACT)
    np.testing.assert_array_equal(auroc(scores[:, 0], targets[:, 0]), auroc(scores, targets)[:1])


@pytest.mark.parametrize("device", DEVICES)
def test_auroc_takes_half_precision_tensors_with_gradients_on_any_device(device):
    (scores, *_), targets, _ = draw()
    given = torch.tensor(scores, dtype=torch.bfloat16, device=device, requires_grad=True)
    expected = sklearn_auroc(given.detach().cpu().double().numpy(), targets)
    np.testing.assert_allclose(auroc(given, torch.tensor(targets, device=device)), expected, **EXACT)


def test_columns_in_another_order_are_refused():
    values = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    targets = Frame(values, ["a", "b"])
    assert auroc(Frame(values, ["x", "y"]), targets).tolist() == [1, 1]  # columns have their own names
    assert auroc(Frame(values, [0, 1]), Frame(values, ["0", "1"])).tolist() == [1, 1]  # as read from a CSV file
    with pytest.raises(ValueError, match="in the same order"):
        auroc(Frame(values, ["b", "a"]), targets)
    with pytest.raises(ValueError, match="in the same order"):
        auroc(Frame(values, ["c", "a"]), targets)


@pytest.mark.parametrize("function", [auroc, lambda scores, targets: worst_group_auroc(scores, targets, [0] * 200)])
def test_a_label_that_is_undefined_is_nan_and_named_in_a_warning_at_the_callers_line(function):
    (scores, *_), targets, _ = draw(k=4)
    targets[:, 1], targets[:, 3] = 0, np.nan
    with pytest.warns(UserWarning, match=r"labels \[1, 3\]") as caught:
        result = function(scores, targets)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(np.isnan(result), [False, True, False, True])


def test_worst_group_equals_a_literal_loop():
    (scores, *_), targets, _ = draw(n=300, k=4)
    groups = np.array(["AP", "PA", "LL"])[np.random.default_rng(2).choice(3, size=300, p=[0.5, 0.45, 0.05])]
    targets[groups == "LL", 0] = 1  # the smallest group has only one class of the first label
    of_groups = [sklearn_auroc(scores[groups == name], targets[groups == name]) for name in ("AP", "PA", "LL")]
    np.testing.assert_allclose(worst_group_auroc(scores, targets, groups), np.nanmin(of_groups, axis=0), **EXACT)


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
def test_bad_scores_and_targets_are_refused(scores, targets, given):
    with pytest.raises(ValueError, match=given):
        auroc(scores, targets)


class NotAvailable:
    """Like `pandas.NA`: not a number, and comparisons have no truth value."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


NA = NotAvailable()


@pytest.mark.parametrize("missing", [None, NA])
def test_a_missing_target_is_unknown(missing):
    given = np.array([[1, 0], [0, missing], [missing, 1], [1, 1]], dtype=object)
    for targets in (given, given.tolist()):
        np.testing.assert_array_equal(auroc([[0.3, 0.1], [0.5, 0.5], [0.1, 0.2], [0.9, 0.0]], targets), [0.5, 0.5])
    assert given[1, 1] is missing
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2"):
        auroc([0.1, missing], [0, 1])


def test_a_masked_target_is_unknown():
    targets = np.ma.masked_array([0, 0, 1, 1, 1], [0, 1, 0, 0, 0])
    assert auroc([0.1, 0.9, 0.2, 0.8, 0.5], targets).tolist() == [1]


@pytest.mark.parametrize("groups", [[1, 2, 3], [1.0, np.nan, 2.0, 2.0], ["a", None, "a", "b"], ["a", NA, "a", "b"]])
def test_bad_groups_are_refused(groups):
    with pytest.raises(ValueError, match="groups must"):
        worst_group_auroc([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], groups)
