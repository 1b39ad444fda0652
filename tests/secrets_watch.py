"""Looks at every line that is logged while tests run: none may hold a secret."""

import logging
import re

PASSWORD = "Leuchtfeuer-7731"  # whatever tests lock or send under it
# An API key as it is sent; its prefix alone is in lists and logs on purpose.
KEY = re.compile(r"rag_[a-z2-7]{10}_[A-Za-z0-9_-]{40,}")
OWN = ("rag", "services", "eval", "uvicorn")


class Watch(logging.Handler):
    """Collects lines with secrets. Sees everything down to debug of the program's own loggers."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line, with its traceback and what goes into JSON beside it."""
        said = logging.Formatter().format(record) + repr(getattr(record, "fields", ""))
        if KEY.search(said) or PASSWORD in said:
            self.found.append(said)


def begin() -> Watch:
    """Watch from now on."""
    watch = Watch()
    logging.getLogger().addHandler(watch)
    for name in OWN:
        logging.getLogger(name).setLevel(logging.DEBUG)
    return watch
