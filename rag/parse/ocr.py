"""Optical character recognition: Tesseract within the process, for the extra `ocr`.

A parser may start no program, so this is the library and not the command.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rag.errors import ParseLimit
from rag.parse.layout import Line
from rag.parse.options import Options

if TYPE_CHECKING:
    from PIL.Image import Image
    from tesserocr import PyTessBaseAPI

DPI = 300  # what Tesseract's models were made for
MAX_PIXELS = 40_000_000  # of a page; A3 has 17 million at 300 dpi

# Where distributions keep the language files.
_FOLDERS = (
    "/usr/share/tesseract-ocr/5/tessdata",
    "/usr/share/tesseract-ocr/4.00/tessdata",
    "/usr/share/tessdata",
    "/usr/share/tesseract/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
)
# Below this mean confidence of its words, in percent, a page may stand on its side or its head.
_DOUBTFUL = 60
_TURNS = (180, 90, 270)  # Tesseract itself reads most blocks that stand on their side
_MARGIN = 1.5  # the next page may take longer than the longest so far

_Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels from the top left


def obstacle(options: Options) -> str:
    """Why pictures of text cannot be read, and what to do about it; "" where they can."""
    if not options.ocr:
        return "RAG_OCR is off."
    if find_spec("tesserocr") is None:
        return (
            'Install OCR: pip install "ragstone[ocr]", and the language (on Debian:'
            " tesseract-ocr-eng). Or run it beforehand: `ocrmypdf in.pdf out.pdf`."
        )
    if _folder(options.ocr, options.ocr_data) is None:
        missing = ", ".join(f"{name}.traineddata" for name in options.ocr.split("+"))
        where = options.ocr_data or "the usual folders"
        return (
            f"OCR needs {missing}, which is not in {where}: install it (on Debian:"
            " tesseract-ocr-eng), or set RAG_OCR_DATA and RAG_OCR_LANGUAGES."
        )
    return ""


class Reader:
    """Reads the pages of one document within the CPU time that its process may take."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._limit = resource.getrlimit(resource.RLIMIT_CPU)[0]
        self._longest = 0.0

    @property
    def has_time(self) -> bool:
        """Whether another page is likely to be done before the kernel ends the process."""
        if self._limit == resource.RLIM_INFINITY:
            return True
        return time.process_time() + _MARGIN * self._longest < self._limit

    def out_of_time(self, read: int, pages: int) -> ParseLimit:
        """The error for a document with more pages to read than there is time."""
        return ParseLimit(
            f"The time for one document ends after OCR of {read} of {pages} pages, at up to"
            f" {self._longest:.1f} s each.",
            hint="Raise RAG_PARSE_CPU_SECONDS and RAG_PARSE_WALL_SECONDS, or split it.",
        )

    def read(self, image: "Image") -> list[Line]:
        """The lines on an image, which may stand on its side or its head. Boxes are in points."""
        begun = time.process_time()
        image = image.convert("L")
        lines, confidence = _recognised(image, self._options)
        for angle in _TURNS:
            if confidence >= _DOUBTFUL:
                break
            turned, sure = _recognised(image.rotate(angle, expand=True), self._options)
            if sure > confidence:
                lines, confidence = turned, sure
        self._longest = max(self._longest, time.process_time() - begun)
        return lines


def _recognised(image: "Image", options: Options) -> tuple[list[Line], int]:
    """The lines, and how sure it is of their words in percent."""
    folder = _folder(options.ocr, options.ocr_data)
    assert folder is not None
    api = _engine(str(folder), options.ocr)
    try:
        api.SetImage(image)
        api.SetSourceResolution(DPI)
        api.Recognize()
        found = list(_found(api))
        return _lines(found), api.MeanTextConf() if found else 0
    finally:
        api.Clear()


def _found(api: "PyTessBaseAPI") -> Iterator[tuple[str, _Box]]:
    """Text and box of every line."""
    from tesserocr import RIL, iterate_level

    results = api.GetIterator()
    if results is None:
        return
    for line in iterate_level(results, RIL.TEXTLINE):
        box = line.BoundingBox(RIL.TEXTLINE)
        text = line.GetUTF8Text(RIL.TEXTLINE).strip() if box else ""
        if text:
            yield text, box


def _upright(boxes: Sequence[_Box]) -> list[_Box]:
    """The boxes, turned where text on its side was read: then lines are taller than wide.

    Lines that come from right to left have their upper side at the right.
    """
    if sum(bottom - top > right - left for left, top, right, bottom in boxes) <= len(boxes) / 2:
        return list(boxes)
    if boxes[0][0] >= boxes[-1][0]:
        return [(top, -right, bottom, -left) for left, top, right, bottom in boxes]
    return [(-bottom, left, -top, right) for left, top, right, bottom in boxes]


def _lines(found: Sequence[tuple[str, _Box]]) -> list[Line]:
    """In points, y upwards, all of one size: a box is as high as its letters happen to be."""
    if not found:
        return []
    scale = 72 / DPI
    boxes = _upright([box for _, box in found])
    size = median(box[3] - box[1] for box in boxes)
    lines = []
    for (text, _), (left, top, right, bottom) in zip(found, boxes, strict=True):
        middle = -(top + bottom) / 2
        lines.append(
            Line(
                text=text,
                left=left * scale,
                right=right * scale,
                bottom=(middle - size / 2) * scale,
                top=(middle + size / 2) * scale,
                size=size * scale,
            )
        )
    return lines


@lru_cache(maxsize=1)
def _engine(folder: str, languages: str) -> "PyTessBaseAPI":
    """Kept for the pages and documents to come."""
    from tesserocr import PSM, PyTessBaseAPI

    return PyTessBaseAPI(path=folder, lang=languages, psm=PSM.AUTO)


def _folder(languages: str, given: str) -> Path | None:
    """The folder that holds all the languages."""
    for folder in map(Path, [given] if given else _FOLDERS):
        if all((folder / f"{name}.traineddata").is_file() for name in languages.split("+")):
            return folder
    return None
