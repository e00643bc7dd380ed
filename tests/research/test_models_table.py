"""The table of models in the documentation."""

from torch import nn

import models_table


def test_table_is_current():
    page = models_table.PAGE.read_text()
    assert models_table.updated(page) == page


def test_operations_are_multiply_accumulates():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 8 * 8, 7)).to("meta")
    assert models_table.operations(model, (3, 8, 8)) == 8 * 8 * 5 * 3 * 3 * 3 + 5 * 8 * 8 * 7
