"""Pictures of text, read by the real Tesseract where it is installed."""

import io
import resource

import pytest
from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont

from rag.errors import (
    EmptyDocument,
    MalformedDocument,
    NeedsOcr,
    ParseLimit,
    TooLarge,
    UnsupportedType,
)
from rag.parse import image, ocr, parse_document
from rag.parse.child import ParserPool
from rag.parse.options import Options
from tests.rag.parse.pools import LIMITS

ENGLISH = Options(ocr="eng")
WITHOUT = ocr.obstacle(ENGLISH)
needs_tesseract = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT or "is there")

TEXT = (
    "The lighthouse on the Bell Rock",
    "was built by Robert Stevenson and",
    "stands on a reef that the sea covers.",
)


def picture(lines=TEXT, *, size=(1240, 700)):
    """Black letters on white, as a good scan at 150 dpi shows them."""
    made = Image.new("L", size, "white")
    draw = ImageDraw.Draw(made)
    font = ImageFont.load_default(40)
    for number, line in enumerate(lines):
        draw.text((80, 80 + 60 * number), line, fill="black", font=font)
    return made


def saved(made, kind, **options):
    file = io.BytesIO()
    made.save(file, kind, **options)
    return file.getvalue()


def pdf(*pages):
    """A string is a page of text, an image a scanned one."""
    made = FPDF()
    made.set_font("Helvetica", size=12)
    for page in pages:
        made.add_page()
        if isinstance(page, str):
            made.multi_cell(0, 8, page)
        else:
            made.image(page, x=0, y=0, w=210)
    return bytes(made.output())


def test_without_ocr_the_hint_says_what_is_missing():
    with pytest.raises(NeedsOcr) as raised:
        parse_document(pdf(picture()), name="a.pdf")
    assert raised.value.hint == "RAG_OCR is off."
    nowhere = Options(ocr="eng", ocr_data="/nowhere")
    with pytest.raises(NeedsOcr) as raised:
        parse_document(pdf(picture()), name="a.pdf", options=nowhere)
    assert 'pip install "ragstone[ocr]"' in raised.value.hint or "RAG_OCR_DATA" in raised.value.hint
    for content in (saved(picture(), "PNG"), saved(picture(), "JPEG")):
        with pytest.raises(UnsupportedType, match="This is an image") as raised:
            parse_document(content, name="a")
        assert raised.value.hint == "RAG_OCR is off."


def test_a_page_that_is_a_picture_is_said_to_be_one():
    document = parse_document(pdf("The lamp burns oil.", picture()), name="a.pdf")
    assert document.warnings == (
        "page 2 holds no text.", "page 2 holds pictures, which OCR might read."
    )  # fmt: skip


@needs_tesseract
def test_scanned_pages_keep_their_places():
    document = parse_document(
        pdf(picture(), "The lamp burns oil.", picture(("Keepers are relieved by boat.",))),
        name="a.pdf",
        options=ENGLISH,
    )
    assert document.text == (
        " ".join(TEXT) + "\n\nThe lamp burns oil.\n\nKeepers are relieved by boat."
    )
    second, third = document.text.index("The lamp"), document.text.index("Keepers")
    assert document.pages == (0, second, third)
    assert document.warnings == ("2 of 3 pages were read by OCR.",)


@needs_tesseract
@pytest.mark.parametrize("angle", [90, 180, 270])
def test_pages_on_their_side_or_head(angle):
    turned = picture(size=(1240, 1240)).rotate(angle, expand=True)
    document = parse_document(pdf(turned), name="a.pdf", options=ENGLISH)
    assert document.text == " ".join(TEXT)


@needs_tesseract
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_images(kind):
    document = parse_document(saved(picture(), kind), name="scan", options=ENGLISH)
    assert document.text == " ".join(TEXT)
    assert document.media_type == f"image/{kind.lower()}"
    assert document.pages == (0,)
    assert document.warnings == ("1 of 1 pages were read by OCR.",)


@needs_tesseract
def test_every_frame_of_a_fax_is_a_page():
    second = picture(("Keepers are relieved by boat.",))
    content = saved(picture(), "TIFF", save_all=True, append_images=[second])
    document = parse_document(content, name="fax.tif", options=ENGLISH)
    assert document.pages == (0, document.text.index("Keepers"))


@needs_tesseract
def test_nothing_to_read_is_empty():
    blank = saved(Image.new("L", (800, 800), "white"), "PNG")
    with pytest.raises(EmptyDocument, match="OCR found no text"):
        parse_document(blank, name="a.png", options=ENGLISH)
    with pytest.raises(EmptyDocument, match="OCR found no text"):
        parse_document(pdf(Image.new("L", (800, 800), "grey")), name="a.pdf", options=ENGLISH)


@needs_tesseract
def test_half_an_image_is_malformed():
    content = saved(picture(), "PNG")
    for part in (content[:20], content[: len(content) // 2]):
        with pytest.raises(MalformedDocument):
            parse_document(part, name="a.png", options=ENGLISH)


@needs_tesseract
def test_an_image_of_too_many_pixels(monkeypatch):
    monkeypatch.setattr(image, "_MAX_PIXELS", 1000)
    with pytest.raises(TooLarge, match="pixels"):
        parse_document(saved(picture(), "PNG"), name="a.png", options=ENGLISH)


@needs_tesseract
def test_a_limited_child_reads_pictures():
    """No program is started, nothing is written, and the limits of a child are enough."""
    pool = ParserPool(LIMITS)
    try:
        content = pdf(picture())
        expected = parse_document(content, name="a.pdf", options=ENGLISH)
        assert pool.parse(content, name="a.pdf", options=ENGLISH) == expected
    finally:
        pool.close()


@needs_tesseract
def test_ocr_ends_before_the_kernel_ends_it(monkeypatch):
    """A scan is refused with what it would need; of a text, pages that are pictures go unread."""
    monkeypatch.setattr(ocr, "_MARGIN", 1e9)  # a second page cannot be done in time
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    with pytest.raises(ParseLimit, match="after OCR of 1 of 2 pages") as raised:
        parse_document(pdf(picture(), picture()), name="a.pdf", options=ENGLISH)
    assert "RAG_PARSE_CPU_SECONDS" in raised.value.hint
    content = pdf("The lamp burns oil.", picture(), picture())
    document = parse_document(content, name="a.pdf", options=ENGLISH)
    assert document.text == "The lamp burns oil.\n\n" + " ".join(TEXT)
    assert "1 of 3 pages were read by OCR." in document.warnings
    assert any("after OCR of 1 of 2 pages" in warning for warning in document.warnings)
