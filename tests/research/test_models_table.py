"""The table of models in the documentation."""

import models_table


def test_table_is_current():
    page = models_table.PAGE.read_text()
    assert models_table.updated(page) == page
