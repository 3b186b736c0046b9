"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def row(cells: Iterable[Any]) -> str:
    r"""Return one line of a table.

    Args:
        cells: strings; whole numbers get thousands separators.

    >>> row(["a|b", 12345])
    '| a\\|b | 12,345 |'
    """
    texts = (f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def header(names: Sequence[str]) -> str:
    """Return the first two lines of a table, for one whose rows are printed as they are measured.

    Args:
        names: of the columns.
    """
    return f"{row(names)}\n{row(['---'] * len(names))}"


def table(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    r"""Return a whole table, which ends with a newline.

    Args:
        names: of the columns.
        rows: what `row` takes.

    >>> table(["network", "FLOPs"], [["resnet20", 40]])
    '| network | FLOPs |\n| --- | --- |\n| resnet20 | 40 |\n'
    """
    return "\n".join([header(names), *map(row, rows)]) + "\n"


def between(text: str, name: str, new: str) -> str:
    r"""Return a document with other text between `<!-- name -->` and `<!-- end of name -->`.

    Args:
        text: the document; what lies between the two is replaced, and they are added at its end if they are not there.
        name: of the part.
        new: what belongs there.

    >>> between("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n", "x", "new\n")
    'a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb\n'
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    before = before if found or not before else f"{before.rstrip()}\n\n"
    return f"{before}{begin}\n\n{new}\n{end}{after}"
