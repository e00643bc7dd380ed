"""Whether the library is right on a GPU, and how fast: one program, `run.py`."""
