"""What a Ragstone holds, as backups have to bring it back."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.collection import index_of
from rag.orchestrator import Orchestrator

MARK = re.compile(r"This is version (\d+) of (\S+)\.")


@contextmanager
def opened(data: Path, loaded: Orchestrator, **settings) -> Iterator[Orchestrator]:
    """The Ragstone of a folder, with the models that another has loaded."""
    with Orchestrator.open(data, profile="starter", **settings) as rag:
        rag.parts._loaded.update(loaded.parts._loaded)
        yield rag


def documents_of(rag: Orchestrator, collection: str) -> dict[str, dict]:
    """Every document of a collection: its record, and what its points say."""
    catalog, scope = rag.parts.catalog, rag.scope
    index = index_of(catalog.collection(scope, collection))
    points = [point for batch in rag.parts.store.points(scope, index) for point in batch]
    found = {}
    for record in catalog.documents(scope, collection, limit=1000):
        mine = [
            point
            for point in points
            if (point.chunk.document_id, point.chunk.generation) == (record.id, record.generation)
        ]
        marks = [MARK.findall(point.chunk.text) for point in mine]
        found[record.id] = {
            "metadata": record.metadata,
            "chunks": record.chunks,
            "points": len(mine),
            "versions": {int(version) for some in marks for version, _ in some},
            "record": record,
            "ids": sorted(point.id for point in mine),
            "vectors": {point.id: point.vector.tobytes() for point in mine},
            "texts": {point.id: point.chunk for point in mine},
        }
    return found
