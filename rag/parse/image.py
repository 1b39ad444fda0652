"""Images of text (PNG, JPEG, TIFF): read by OCR, every frame a page."""

import io
from typing import TYPE_CHECKING

from rag.errors import EmptyDocument, MalformedDocument, TooLarge, UnsupportedType
from rag.parse import ocr
from rag.parse.draft import Draft
from rag.parse.pages import write_pages

if TYPE_CHECKING:
    from PIL.Image import Image

    from rag.parse.layout import Line

_MAX_PIXELS = 2 * ocr.MAX_PIXELS
# What a screen shows has letters half as high as Tesseract was made for.
_COARSE_DPI = 200
_SMALL_SIDE = 1500


def parse_image(data: bytes, draft: Draft) -> None:
    """Read what stands on an image. Raises UnsupportedType where there is no OCR, EmptyDocument."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    if why := ocr.obstacle(draft.options):
        raise UnsupportedType("This is an image.", hint=why)
    reader = ocr.Reader(draft.options)
    pages: list[list[Line]] = []
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError:
        raise MalformedDocument("The image is damaged.", hint="Was it sent completely?") from None
    with image:
        frames = getattr(image, "n_frames", 1)
        _refuse_bombs(image)
        for frame in ImageSequence.Iterator(image):
            if not reader.has_time:
                raise reader.out_of_time(len(pages), frames)
            _refuse_bombs(frame)
            pages.append(reader.read(_scaled(ImageOps.exif_transpose(frame))))
    if not any(pages):
        raise EmptyDocument("OCR found no text in the image.")
    write_pages(pages, draft)
    draft.warn(f"{len(pages)} of {len(pages)} pages were read by OCR.")


def _refuse_bombs(image: "Image") -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise TooLarge(
            f"The image has {image.width:,} by {image.height:,} pixels, over {_MAX_PIXELS:,}.",
            hint="Make it smaller: 300 dots per inch are enough.",
        )


def _scaled(image: "Image") -> "Image":
    """The image in shades of grey, as fine as a scan."""
    image = image.convert("L")
    factor = min(_finer(image), (ocr.MAX_PIXELS / (image.width * image.height)) ** 0.5)
    if factor == 1:
        return image
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size)


def _finer(image: "Image") -> float:
    dpi = float(image.info.get("dpi", (0, 0))[0])
    if 50 <= dpi < _COARSE_DPI:
        return ocr.DPI / dpi
    return 2.0 if not dpi and max(image.size) < _SMALL_SIDE else 1.0
