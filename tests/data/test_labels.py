import numpy as np
import pytest

from causalcxr.data.labels import NIH_LABELS, check_label_names, label_positions


def test_nih_labels_are_the_fourteen_findings_in_the_order_of_the_release():
    assert " ".join(NIH_LABELS) == (
        "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
        "Emphysema Fibrosis Pleural_Thickening Hernia"
    )
    for given in (list(NIH_LABELS), np.array(NIH_LABELS)):  # whatever the container
        check_label_names(given, NIH_LABELS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "c", "b"], "another order: position 1 is 'c', expected 'b'"),
        (["a", "x", "c"], "position 1 is 'x', expected 'b'"),
        (["a", "b"], "position 2 is missing, expected 'c'"),
        (["a", "b", "c", "d"], "3 expected: position 3 is 'd'"),
        ("abc", "lists of strings"),
    ],
)
def test_differing_names_are_refused_with_the_first_difference(given, message):
    with pytest.raises(ValueError, match=message):
        check_label_names(given, ("a", "b", "c"))
    with pytest.raises(ValueError, match="label names"):
        check_label_names(("a", "b", "c"), given)


def test_positions_follow_the_order_asked_for():
    assert label_positions(["Hernia", "Atelectasis"]) == [13, 0]
    assert label_positions(["b"], ["a", "b"]) == [1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Pleural thickening"], "closest: 'Pleural_Thickening'"),
        (["Mass", "No Finding"], "unknown label 'No Finding'"),
        (["Mass", "Mass"], "each once"),
        ([], "Atelectasis"),
    ],
)
def test_unknown_repeated_and_missing_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        label_positions(names)
