"""Answers lead nowhere but to the sources that they were made from.

A document can ask a model to show a picture or a link whose address carries the conversation away;
whoever shows the answer loads the one, and clicks the other. So pictures are taken out, a link
keeps its words alone unless it leads to the source of a passage, and an address that stands in a
passage is shown as text that nobody can click. All of it while the text streams.
"""

import re
from collections.abc import Iterator

from rag.types import Context, Cut

LONGEST = 2000  # characters that are held back for the end of a link
GONE = "(link removed)"
_TAGS = "a|audio|base|embed|form|iframe|img|input|link|meta|object|script|source|style|svg|video"
_WHAT = re.compile(
    r"(?P<image>!\[[^\]\n]*\]\(\s*<?(?P<picture>[^\s)>]*)[^)]*\))"
    r"|(?P<link>\[(?P<words>[^\]\n]+)\]\(\s*<?(?P<to>[^\s)>]*)[^)]*\))"
    rf"|(?P<tag><\s*/?\s*(?:{_TAGS})\b[^>]*>?)"
    r"|(?P<url><?(?:(?:https?|ftp)://|\bwww\.)[^\s<>\"'`\])]+>?)",
    re.IGNORECASE,
)
# A construct of which the end has not come yet; the last one is what may become an address. (A text
# in a script without spaces is not held back.)
_UNFINISHED = re.compile(
    r"(?:!?\[[^\]\n]*(?:\](?:\([^)]*)?)?"
    rf"|<\s*/?\s*(?:[a-z]{{0,6}}|(?:{_TAGS})\b[^>]*)"
    r"|[!-~]+)$",
    re.IGNORECASE,
)
_TRAILING = ".,;:!?"


class Links:
    """Of one answer: what its text may lead to, and what was taken out of it."""

    def __init__(self, context: Context) -> None:
        sources = (passage.source for passage in context.passages)
        self._sources = {one for one in sources if one.startswith(("http://", "https://"))}
        self._known = "\n".join(passage.text for passage in context.passages)
        self._held = ""
        self.cuts: list[Cut] = []

    def checked(self, pieces: Iterator[str]) -> Iterator[str]:
        """The pieces of a text as they come, each as soon as it is sure to end no link."""
        for piece in pieces:
            self._held += piece
            end = _settled(self._held)
            ready, self._held = self._held[:end], self._held[end:]
            if ready:
                yield self.inert(ready)
        if self._held:
            yield self.inert(self._held)
            self._held = ""

    def inert(self, text: str) -> str:
        """A whole text with nothing in it that leads elsewhere."""
        return _WHAT.sub(self._shown, text)

    def _shown(self, found: re.Match[str]) -> str:
        if found["image"]:
            self.cuts.append(Cut("an image", f"it would be loaded from {found['picture'][:200]!r}"))
            return ""
        if found["link"]:
            if found["to"] in self._sources or found["to"].startswith("#"):
                return found[0]
            return self._cut("a link", found["to"], found["words"])
        if found["tag"]:
            return self._cut("a tag", found["tag"], "")
        url = found["url"].strip("<>").rstrip(_TRAILING)
        behind = found["url"].strip("<>")[len(url) :]
        if url in self._sources:
            return found[0]
        if url in self._known:
            quoted = found.string[found.start() - 1 : found.start()] == "`"
            return found[0] if quoted else f"`{url}`{behind}"
        return self._cut("an address", url, GONE) + behind

    def _cut(self, what: str, to: str, instead: str) -> str:
        self.cuts.append(Cut(what, f"{to[:200]!r} is the source of no passage"))
        return instead


def _settled(text: str) -> int:
    """How much of a text is shown as it is whatever follows."""
    unfinished = _UNFINISHED.search(text)
    end = unfinished.start() if unfinished else len(text)
    if len(text) - end > LONGEST:
        return len(text)
    # The last word may be the end of something that began before it.
    return next((m.start() for m in _WHAT.finditer(text) if m.start() < end < m.end()), end)
