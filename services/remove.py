"""What `rag rm` does, and how it shows a proof."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.errors import InvalidInput
from services.reach import Reach
from services.schemas import ProofOut


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
    folder: Reach,
    documents: Sequence[str],
    where: dict[str, Any] | None,
    *,
    collection: str,
    prove: bool,
    dry_run: bool,
) -> tuple[list[str], list[ProofOut]]:
    """Delete documents, or those that a filter picks. Returns their ids, and proofs if wanted."""
    proofs: list[ProofOut] = []
    ids = list(documents)
    if where is not None:
        ids = folder.delete_matching(where, collection, dry_run=dry_run or prove)
    if dry_run:
        return ids, proofs
    for document_id in ids:
        if prove:
            proofs.append(folder.delete_proved(document_id, collection))
        elif where is None:
            folder.delete(document_id, collection)
    return ids, proofs


def as_rows(ids: Sequence[str], proofs: Sequence[ProofOut]) -> list[dict[str, Any]]:
    """For scripts: an object for each document."""
    if proofs:
        return [proof.model_dump(mode="json") for proof in proofs]
    return [{"id": document_id} for document_id in ids]


def show(out: Console, ids: Sequence[str], proofs: Sequence[ProofOut], *, dry_run: bool) -> None:
    """What was deleted, or would be; of a proof every place."""
    for proof in proofs:
        show_proof(out, proof)
    if dry_run:
        for document_id in ids:
            out.print(escape(document_id))
    out.print(f"{len(ids)} documents {'would be ' if dry_run else ''}deleted.")


def show_proof(out: Console, proof: ProofOut) -> None:
    """Every place with what it held and holds."""
    verdict = "nothing is left" if proof.gone else "[red]something is left[/]"
    out.print(f"[bold]{escape(proof.id)}[/]: {verdict}")
    table = Table("place", "before", "after", "", box=None, pad_edge=False)
    for place in proof.places:
        before, after = ("?" if n is None else str(n) for n in (place.before, place.after))
        table.add_row(escape(place.what), before, after, escape(place.why))
    out.print(table)
