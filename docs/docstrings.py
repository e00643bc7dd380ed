"""For the site: what the docstrings have and Markdown has not, the mathematics of reST and a section `Example`."""

import re
from typing import Any

import griffe

DISPLAYED = re.compile(r"^\.\. math::(.*(?:\n +.+|\n(?=\n))*)", flags=re.MULTILINE)  # with the indented lines below
INLINE = re.compile(r":math:`([^`]+)`")


def as_markdown(docstring: str) -> str:
    """Return a docstring as the parser of Google's style and Markdown take it.

    Args:
        docstring: The text, without the indentation of the code.
    """
    docstring = DISPLAYED.sub(lambda math: f"$$\n{math[1].strip()}\n$$\n", docstring)
    docstring = INLINE.sub(lambda math: rf"\({math[1]}\)", docstring)
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
