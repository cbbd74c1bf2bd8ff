"""Tables as calicoctl prints them: plain columns for `get`, ruled ones for `node status` and `ipam`.

Promises: pure text; widths fit the longest cell. Does not know: what the cells mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, three spaces apart."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def ruled(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with rules of `+---+`; heads are centred, cells are not."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def line(row: Sequence[str], *, centred: bool) -> str:
        shown = [
            cell.center(width) if centred else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        return "| " + " | ".join(shown) + " |"

    return "\n".join(
        [rule, line(heads, centred=True), rule, *(line(row, centred=False) for row in cells), rule]
    )


def data(value: Any, output: str) -> str:
    """A value as `json` or `yaml`."""
    import msgspec

    if output == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return msgspec.yaml.encode(value).decode().rstrip()
