"""The NIH ChestX-ray14 study: search for a recipe, variants over several seeds, tables and weights."""
