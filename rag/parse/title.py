"""Whether the title in a file's properties was written by a person."""

import re

from rag.parse.clean import clean_inline

_MAX_CHARS = 300
_PLACEHOLDER = re.compile(
    r"(untitled|unnamed|document|presentation|powerpoint presentation|workbook|book|sheet|slide"
    r"|anonymous|\(anonymous\)|page|title|index|home|new|scan|microsoft word|no title|unknown"
    r"|none|null|n/a)"
    r"[\s._-]*\(?\d*\)?",
    re.IGNORECASE,
)
_PRINTED_BY = re.compile(r"microsoft (word|powerpoint|excel|publisher) - ", re.IGNORECASE)
_FILE_NAME = re.compile(
    r"\S[^/]*\.[a-z][a-z0-9]{1,4}|.*[/\\][^/\\\s]+\.[a-z0-9]{2,5}", re.IGNORECASE
)
# fmt: off
_FILE_ENDINGS = frozenset([
    "cdr", "dot", "dotx", "doc", "docm", "docx", "dvi", "eml", "epub", "fm", "htm", "html",
    "indd", "jpg", "key", "md", "odp", "ods", "odt", "p65", "pages", "pdf", "png", "ppt",
    "pptm", "pptx", "ps", "pub", "qxd", "rtf", "tex", "tif", "tiff", "txt", "wpd", "xls",
    "xlsm", "xlsx", "xml",
])
# fmt: on


def sensible_title(title: str) -> str:
    """The title on one line, or "" for placeholders, file names and bare numbers."""
    title = clean_inline(title)
    if not title or len(title) > _MAX_CHARS or not any(c.isalpha() for c in title):
        return ""
    if _PLACEHOLDER.fullmatch(title) or _PRINTED_BY.match(title) or _is_file_name(title):
        return ""
    return title


def _is_file_name(title: str) -> bool:
    if not _FILE_NAME.fullmatch(title):
        return False
    return title.rpartition(".")[2].lower() in _FILE_ENDINGS
