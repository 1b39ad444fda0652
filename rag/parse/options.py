"""What a parser may do with a document, beyond reading its text."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    """`password` opens a locked file. At most `max_attachments` files are taken out of a mail, with
    `max_attachment_bytes` together. `ocr` names Tesseract's languages (`eng+deu`), "" for no OCR,
    and `ocr_data` the folder that holds them, "" for where they are usually kept.
    """

    password: str | None = field(default=None, repr=False)
    max_attachments: int = 100
    max_attachment_bytes: int = 64 * 2**20
    ocr: str = ""
    ocr_data: str = ""

    @property
    def attachment_bytes(self) -> int:
        """The most that attachments may add to what parsing makes."""
        return self.max_attachment_bytes if self.max_attachments else 0
