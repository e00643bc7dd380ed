"""The study on NIH ChestX-ray14: a search for the recipe, variants over several seeds, tables and weights."""
