import pytest

from causalcxr.data.labels import NIH_LABELS, check_label_names, label_positions


def test_nih_labels_are_the_fourteen_findings_in_the_order_of_the_release():
    assert " ".join(NIH_LABELS) == (
        "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
        "Emphysema Fibrosis Pleural_Thickening Hernia"
    )


def test_equal_names_pass_whatever_the_container():
    check_label_names(list(NIH_LABELS), NIH_LABELS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "c", "b"], r"same but in another order: position 1 is 'c', expected 'b'; reorder .* to: a, b, c"),
        (["a", "x", "c"], r"label names differ: position 1 is 'x', expected 'b'; give exactly these: a, b, c"),
        (["a", "b", "b"], r"label names differ: position 2 is 'b', expected 'c'"),
        (["a", "c"], r"2 label names given, 3 expected: position 1 is 'c', expected 'b'"),
        (["a", "b"], r"2 label names given, 3 expected: position 2 is missing, expected 'c'"),
        ([], r"0 label names given, 3 expected: position 0 is missing, expected 'a'"),
        (
            ["a", "b", "c", "No Finding"],
            r"4 label names given, 3 expected: position 3 is 'No Finding', expected no more",
        ),
    ],
)
def test_differing_names_are_refused_with_the_first_difference(given, message):
    with pytest.raises(ValueError, match=message):
        check_label_names(given, ("a", "b", "c"))


@pytest.mark.parametrize("names", ["Hernia", ["Hernia", 3]])
def test_names_that_are_not_a_list_of_strings_are_refused(names):
    with pytest.raises(TypeError, match="label names must be"):
        check_label_names(names, ["Hernia"])
    with pytest.raises(TypeError, match="label names must be"):
        label_positions(names)


def test_positions_follow_the_order_asked_for():
    assert label_positions(["Hernia", "Atelectasis"]) == [13, 0]
    assert label_positions(["b"], ["a", "b"]) == [1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["effusion"], r"unknown label 'effusion' \(closest: 'Effusion'"),
        (["Pleural thickening"], r"closest: 'Pleural_Thickening'"),
        (["Mass", "Infiltrate", "qqq"], r"unknown labels 'Infiltrate' \(closest: 'Infiltration'.*\), 'qqq'; valid"),
        (["No Finding"], r"absence of all labels"),
        (["Mass", "Mass"], r"more than once: Mass"),
        ([], r"no label names given; choose from: Atelectasis"),
    ],
)
def test_unknown_names_are_answered_with_the_closest(names, message):
    with pytest.raises(ValueError, match=message):
        label_positions(names)
