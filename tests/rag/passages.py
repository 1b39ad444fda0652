"""Passages of texts, for tests."""

from rag.types import Passage, Scores


def passage(number: int, text: str, start: int = 0) -> Passage:
    """One of its own document."""
    return Passage(
        number=number,
        document_id=f"d{number}",
        title="T",
        text=text,
        start=start,
        end=start + len(text),
        tokens=10,
        page=None,
        headings=(),
        source="",
        scores=Scores(),
    )
