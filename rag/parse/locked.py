"""Office files with a password: an encrypted package in an OLE2 container."""

import io

from rag.errors import EncryptedDocument

OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_HOW = "Send it with its password (`--password`, or the field `password`), or save it without one."


def needs_password(what: str) -> EncryptedDocument:
    """The error for a file that came without the password that it needs."""
    return EncryptedDocument(f"{what} needs a password.", hint=_HOW)


def wrong_password(what: str) -> EncryptedDocument:
    """The error for a file that its password does not open."""
    return EncryptedDocument(
        f"The password does not open {what}.", hint="Send it again with the right password."
    )


def is_locked_office(data: bytes) -> bool:
    """Whether this is a DOCX, XLSX or PPTX file with a password."""
    return data.startswith(OLE2) and _PACKAGE in data


def unlock_office(data: bytes, password: str | None) -> bytes:
    """The file within.

    Raises EncryptedDocument without the right password, and anything for half a file.
    """
    if not password:
        raise needs_password("The Office document")
    from msoffcrypto.exceptions import DecryptionError, FileFormatError, InvalidKeyError
    from msoffcrypto.format.ooxml import OOXMLFile

    opened = io.BytesIO()
    try:
        locked = OOXMLFile(io.BytesIO(data))
        locked.load_key(password=password, verify_password=True)
        locked.decrypt(opened)
    except InvalidKeyError as error:
        raise wrong_password("the Office document") from error
    except (DecryptionError, FileFormatError) as error:
        raise EncryptedDocument(
            f"The Office document is encrypted in a way that cannot be read: {error}.",
            hint="Save it without a password.",
        ) from error
    return opened.getvalue()
