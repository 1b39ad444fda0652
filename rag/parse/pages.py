"""Lines of pages -> the blocks of a draft."""

from collections.abc import Sequence

from rag.parse.draft import Draft
from rag.parse.layout import Block, Bookmark, Line, arrange


def write_pages(
    pages: Sequence[Sequence[Line]], draft: Draft, *, outline: Sequence[Bookmark] = ()
) -> None:
    """Add every page, its wrapped lines joined to paragraphs."""
    for blocks in arrange(pages, outline):
        draft.page()
        for block in blocks:
            _write_block(block, draft)


def _write_block(block: Block, draft: Draft) -> None:
    if block.level:
        draft.heading(block.text, block.level)
    elif block.is_item:
        draft.item(block.text)
    else:
        draft.paragraph(block.text, separator=" " if block.continues else "\n\n")
