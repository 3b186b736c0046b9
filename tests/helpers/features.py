"""Which feature of Lightning a test proves, and the table made of it: `make compatibility` writes the document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.paths import ROOT

DOCUMENT = ROOT / "docs/compatibility.md"
AREAS = (
    "Precision",
    "Training loop",
    "Methods",
    "Strategies",
    "torch.compile",
    "Other callbacks",
    "Import families",
    "Checkpoints and resume",
    "After fit",
    "Bad input",
    "Memory",
    "Failures",
)
HEAD = """# What gdp works with

Every row is made from the tests that prove it, by `make compatibility`, which runs them first; another test compares
this file with what they say. "Refused" is followed by what `GDPError` says, with … for what depends on the case.
"""


def works(area: str, feature: str, note: str = "") -> pytest.MarkDecorator:
    """Mark a test as proof that a feature works; `note` says what a user should know about it."""
    word = "handled" if area == "Bad input" else "works"
    return _feature(area, feature, f"{word}; {note}" if note else word)


def refused(area: str, feature: str, sentence: str) -> pytest.MarkDecorator:
    """Mark a test as proof that a feature is refused with this sentence, in which … stands for anything.

    The test finds it in the fixture `refusal`.
    """
    return _feature(area, feature, f'refused: "{sentence}"', sentence)


def unproved(area: str, feature: str, why: str) -> pytest.MarkDecorator:
    """Mark a test that has never run."""
    return _feature(area, feature, f"not proved: {why}")


def _feature(area: str, feature: str, outcome: str, sentence: str = "") -> pytest.MarkDecorator:
    assert area in AREAS, area
    return pytest.mark.feature(area=area, name=feature, outcome=outcome, sentence=sentence)


def pattern(sentence: str) -> str:
    """A regular expression for a sentence with … in it."""
    return r"(.|\n)*".join(map(re.escape, sentence.split("…")))


def document(items: Iterable[pytest.Item]) -> str:
    """The compatibility document, from the marked tests of a session."""
    rows: dict[tuple[str, str], dict[str, dict[str, None]]] = {}  # dicts as sets that keep the order
    for item in items:
        for mark in item.iter_markers("feature"):
            row = rows.setdefault((mark.kwargs["area"], mark.kwargs["name"]), {})
            test = f"`{Path(item.location[0]).name}::{getattr(item, 'originalname', item.name)}`"
            row.setdefault(mark.kwargs["outcome"], {})[test] = None
    parts = [HEAD]
    for area in AREAS:
        lines = [
            f"| {name} | {outcome.replace('|', chr(92) + '|')} | {', '.join(tests)} |"
            for (where, name), row in rows.items()
            if where == area
            for outcome, tests in row.items()
        ]
        parts += [
            f"## {area}\n",
            "| feature | works, or refused with which sentence | test |",
            "|---|---|---|",
            *lines,
            "",
        ]
    return "\n".join(parts)
