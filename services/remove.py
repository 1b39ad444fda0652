"""What `rag rm` does, and how it shows a proof."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag import collection as shelf
from rag.errors import InvalidInput
from rag.orchestrator import Orchestrator
from rag.prove import Proof, delete_proved


def check_choice(
    documents: Sequence[str], where: object, *, everything: bool, prove: bool, dry_run: bool
) -> None:
    """Raise InvalidInput unless it is clear what to delete."""
    if bool(documents) + everything + (where is not None) != 1:
        raise InvalidInput(
            "Name documents to delete, or --filter, or --all for the collection.",
            hint="`rag ls COLLECTION` lists the ids.",
        )
    if everything and (prove or dry_run):
        raise InvalidInput("--prove and --dry-run go with documents or --filter, not with --all.")
    if dry_run and where is None:
        raise InvalidInput("--dry-run goes with --filter.")


def remove(
    rag: Orchestrator,
    documents: Sequence[str],
    where: dict[str, Any] | None,
    *,
    collection: str,
    prove: bool,
    dry_run: bool,
) -> tuple[list[str], list[Proof]]:
    """Delete documents, or those that a filter picks. Returns their ids, and proofs if wanted."""
    proofs: list[Proof] = []
    ids = list(documents)
    if where is not None:
        ids = rag.delete_matching(where, collection=collection, dry_run=dry_run or prove)
    if dry_run:
        return ids, proofs
    for document_id in ids:
        if prove:
            proofs.append(delete_proved(rag.parts, rag.scope, collection, document_id))
        elif where is None:
            rag.delete(document_id, collection=collection)
    return ids, proofs


def remove_collection(rag: Orchestrator, collection: str) -> None:
    """Delete a whole collection."""
    shelf.drop(rag.parts, rag.scope, collection)


def as_rows(ids: Sequence[str], proofs: Sequence[Proof]) -> list[dict[str, Any]]:
    """For scripts: an object for each document."""
    if proofs:
        return [{**asdict(proof), "gone": proof.gone} for proof in proofs]
    return [{"document_id": document_id} for document_id in ids]


def show(out: Console, ids: Sequence[str], proofs: Sequence[Proof], *, dry_run: bool) -> None:
    """What was deleted, or would be; of a proof every place."""
    for proof in proofs:
        show_proof(out, proof)
    if dry_run:
        for document_id in ids:
            out.print(escape(document_id))
    out.print(f"{len(ids)} documents {'would be ' if dry_run else ''}deleted.")


def show_proof(out: Console, proof: Proof) -> None:
    """Every place with what it held and holds."""
    verdict = "nothing is left" if proof.gone else "[red]something is left[/]"
    out.print(f"[bold]{escape(proof.document_id)}[/]: {verdict}")
    table = Table("place", "before", "after", "", box=None, pad_edge=False)
    for place in proof.places:
        before, after = ("?" if n is None else str(n) for n in (place.before, place.after))
        table.add_row(escape(place.what), before, after, escape(place.why))
    out.print(table)
