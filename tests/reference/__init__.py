"""Literal, slow versions of the equations, written with explicit sums, to compare the layers and losses with."""
