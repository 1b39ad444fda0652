"""Every error that Ragstone raises on purpose.

RagError
├── InvalidInput              the caller can mend it: a value out of range, a bad filter
│   ├── TooLarge              a size, count or length setting was crossed
│   ├── MalformedBackup       a file that is no backup, half of one, or an altered one
│   └── ParseError            a document that cannot become text
│       ├── EmptyDocument
│       ├── EncryptedDocument
│       ├── MalformedDocument
│       ├── ParseLimit        its parser took more time, memory or output than the settings allow
│       ├── UnsupportedType
│       └── NeedsOcr
├── NotFound                  no such collection, document, job
├── Conflict                  the name is taken, the pipeline differs, the folder is in use
│   ├── PipelineMismatch
│   ├── CollectionMoved       its index was replaced by another while something was done to it
│   └── DataFolderBusy
├── Unauthenticated           who asks is not known: no key, a wrong one, one that has ended
├── Forbidden                 who asks is known, and may not do this
├── ModelUnavailable          a model cannot be found, loaded or trusted
├── StoreUnreachable          Qdrant or the catalog's database does not answer
├── StorageFull               the disk has no room left
├── FetchFailed               a URL does not give the document that it should
├── Overloaded                a bounded queue is full: try again later
├── Cancelled                 nobody waits for the result any more
└── MissingExtra              an optional dependency is not installed

`message` says what is wrong, `hint` what to do about it. `services` maps the classes to HTTP
statuses and the command line to exit codes, each in one table.
"""


class RagError(Exception):
    """Base of the tree. `str(error)` is the message and, when there is one, the hint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class InvalidInput(RagError):
    """The request is wrong in a way that its sender can mend."""


class TooLarge(InvalidInput):
    """A size, count or length limit of the settings was crossed."""


class MalformedBackup(InvalidInput):
    """The file is no backup, or not as it was written."""


class ParseError(InvalidInput):
    """A document could not be turned into text."""


class EmptyDocument(ParseError):
    """The document holds no text."""


class EncryptedDocument(ParseError):
    """The document needs a password."""


class MalformedDocument(ParseError):
    """The bytes are not what their type says."""


class ParseLimit(ParseError):
    """Parsing took more time, memory or output than the settings allow."""


class UnsupportedType(ParseError):
    """No parser reads this type."""


class NeedsOcr(ParseError):
    """The pages are pictures without a text layer."""


class NotFound(RagError):
    """No such collection, document or job within the caller's scope."""


class Conflict(RagError):
    """The request contradicts what is stored."""


class PipelineMismatch(Conflict):
    """The collection was built with another parser, splitter or embedder."""


class CollectionMoved(Conflict):
    """The collection's index was replaced by another one meanwhile."""


class DataFolderBusy(Conflict):
    """Another process has the data folder open."""


class Unauthenticated(RagError):
    """The caller is not known."""


class Forbidden(RagError):
    """The caller may not do this."""


class ModelUnavailable(RagError):
    """A model cannot be found, loaded, or is not the model that it says it is."""


class StoreUnreachable(RagError):
    """Qdrant, or the catalog's database, does not answer.

    `inside` is what its driver says: it may name hosts and users, and is for the operator alone.
    """

    def __init__(self, message: str, *, hint: str = "", inside: str = "") -> None:
        super().__init__(message, hint=hint)
        self.inside = inside


class StorageFull(RagError):
    """The disk below the data folder has no room left."""


class FetchFailed(RagError):
    """A document could not be fetched from its URL."""


class Overloaded(RagError):
    """A bounded queue is full."""

    def __init__(self, message: str, *, retry_after: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Cancelled(RagError):
    """Nobody waits for the result any more, so it was not computed."""


class MissingExtra(RagError):
    """An optional dependency is not installed."""
