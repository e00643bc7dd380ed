import re

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


@pytest.mark.parametrize("given", [["a", "c", "b"], ["a", "b"], ["a", "b", "c", "d"], "abc"])
def test_differing_names_are_refused(given):
    with pytest.raises(ValueError, match=f"in this order: a, b, c; but got {re.escape(repr(given))}"):
        check_label_names(given, ("a", "b", "c"))


def test_unknown_repeated_and_missing_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown label 'Pleural thickening' \(closest: 'Pleural_Thickening'\)"):
        label_positions(["Pleural thickening"])
    with pytest.raises(ValueError, match="unknown label 'No Finding'; valid labels: Atelectasis"):
        label_positions(["Mass", "No Finding"])
    for names in (["Mass", "Mass"], []):
        with pytest.raises(ValueError, match="must be unique and not empty"):
            label_positions(names)
