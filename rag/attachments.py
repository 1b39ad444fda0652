"""What is attached to a mail becomes documents of its own, whose parent is the mail.

mail        hello-eml-1f8b2c4d5e6f   source inbox/hello.eml
its child   plan-pdf-0a1b2c3d4e5f    source inbox/hello.eml#plan.pdf, metadata of the mail and
                                     `parent`: hello-eml-1f8b2c4d5e6f
"""

from collections import Counter

from rag import parsed
from rag.catalog import Collection
from rag.journal import Arrival
from rag.parts import Parts
from rag.sources import Source, derived_id
from rag.types import Document, Scope

_MAX_TITLE = 100  # characters of the mail's title in that of its attachment


def enclosed(source: Source, document: Document) -> tuple[Arrival, ...]:
    """The documents to be that are attached to a document, in their order.

    Their ids come from the parent's, the file's name, and which of that name it is, so that a new
    version of the mail replaces them.
    """
    mail = document.title
    if len(mail) > _MAX_TITLE:
        mail = mail[:_MAX_TITLE].rstrip() + "…"
    seen: Counter[str] = Counter()
    arrivals = []
    for attachment in document.attachments:
        seen[attachment.name] += 1
        which = f"{source.document_id}\0{attachment.name}\0{seen[attachment.name]}"
        child = Source(
            name=attachment.name,
            origin=f"{source.origin or source.document_id}#{attachment.name}",
            id=derived_id(attachment.name, which),
            title=f"{attachment.name} (attached to {mail})",
            media_type=attachment.media_type,
            metadata={**source.metadata, "parent": source.document_id},
            parent=source.document_id,
            depth=source.depth + 1,
            password=source.password,
            acl_assumed=not source.says_acl,
        )
        arrivals.append(Arrival(child, attachment.content_hash))
    return tuple(arrivals)


def missing(parts: Parts, scope: Scope, found: Collection, source: Source) -> list[Arrival]:
    """Those attached to a live document that are not live: they failed, or a process ended."""
    record = parts.catalog.document(scope, found, source.document_id)
    if not parts.catalog.attached(record.generation):
        return []
    text, structure = parts.objects.get(record.text_hash), parts.objects.get(record.parsed_hash)
    children = enclosed(source, parsed.unpack(text, structure))
    ids = [child.source.document_id for child in children]
    live = parts.catalog.live_generations(scope, found, ids)
    return [child for child in children if child.source.document_id not in live]
