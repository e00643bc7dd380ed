"""Literal, slow implementations of the equations with explicit sums, as references for the layers and losses."""
