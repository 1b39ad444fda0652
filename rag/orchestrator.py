"""The contents page: everything that Ragstone does, each step a call into the file of its name.

ask:     question -> condense -> retrieve -> rerank -> pack -> generate -> cite
ingest:  bytes -> parse -> split -> embed -> store   (visible all at once or not at all)
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from rag import collection as shelf
from rag import ingest as steps
from rag import listing
from rag import types as t
from rag.answer import cached, compose, traced
from rag.answer_cache import Kept, key_of
from rag.attachments import enclosed, missing
from rag.catalog import Collection, DocumentRecord
from rag.choices import answered_from, choices, chosen_instead
from rag.cite import cite, cite_quotes
from rag.condense import condense
from rag.errors import CollectionMoved, Forbidden, InvalidInput, NotFound
from rag.folder import LeftOut, Selection
from rag.generate import Prompt, Request, TextStream, plain, refuse
from rag.history import recent
from rag.journal import Arrival
from rag.links import Links
from rag.objects import digest
from rag.pack import pack
from rag.parts import Parts, open_parts
from rag.patch import as_patched, change
from rag.question import Asked, check_question, check_search
from rag.rerank import rerank as by_relevance
from rag.retrieve import Mode, retrieve
from rag.sampling import Sampling
from rag.settings import load_settings
from rag.sources import Source, find
from rag.spans import answering, chatting, ended, retrieval, step
from rag.split import split_document
from rag.store.filters import parse_filter
from rag.support import assess
from rag.timing import Timings


class Orchestrator:
    """Ragstone within one scope; thread-safe. `within` gives the same through another scope."""

    def __init__(self, parts: Parts, scope: t.Scope) -> None:
        self.parts = parts
        self.scope = scope

    @classmethod
    def open(cls, data: str | Path | None = None, **settings: object) -> Self:
        """Open a data folder; `settings` win over those of the environment."""
        known = load_settings(data=data, **settings)
        return cls(open_parts(known), t.Scope(known.tenant))

    def within(self, scope: t.Scope) -> "Orchestrator":
        """The same stores and models through another scope."""
        return Orchestrator(self.parts, scope)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.parts.close()

    def ask(self, question: str, **options: Any) -> t.Answer:  # noqa: ANN401 - those of `stream`
        """The whole answer. Takes the options of `stream`."""
        *_, answer = self.stream(question, **options)
        assert isinstance(answer, t.Answer)
        return answer

    def stream(
        self,
        question: str,
        *,
        collection: str = "default",
        history: Sequence[t.Message] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        filter: Mapping[str, Any] | None = None,
        limit: int | None = None,
        instead: Mapping[str, Any] | None = None,
    ) -> Iterator[t.AnswerEvent]:
        """The answer in the making; the last event is the whole `Answer`. Closing it stops it.

        `instead` are choices in the place of the collection's own, for this question alone.
        """
        asked = Asked(
            question, collection, tuple(history), sampling, filter, limit, dict(instead or {})
        )
        timings = Timings(self.parts.spans.start(*answering()))
        yield from self.parts.metrics.watched(self._answer(asked, timings), timings)

    def _answer(self, asked: Asked, timings: Timings) -> Generator[t.AnswerEvent]:
        parts, collection, sampling = self.parts, asked.collection, asked.sampling
        check_question(asked.question, asked.history, sampling, parts.settings)
        shelved = chosen_instead(parts.catalog.collection(self.scope, collection), asked.instead)
        generator = parts.generator_for(shelved)
        with timings.stage("condense"):
            read, unread = recent(
                asked.history, parts.settings.history_tokens, generator.count_tokens
            )
            standalone, notes = condense(asked.question, read, generator, parts.metrics.counted)
        with timings.stage("cache"):
            key, known = self._recall(asked, standalone, read, shelved)
        if known is not None:
            yield from cached(known, asked, standalone, parts, self.scope)
            return
        chosen = choices(shelved, parts.settings)
        limit = asked.limit or answered_from(chosen)
        with ended(timings.span.child(*retrieval(collection, limit))) as span:
            found = self._search(
                standalone, shelved, Timings(span), filter=asked.filter, limit=limit
            )
        timings.add(found.timings)
        yield t.Retrieved(found.hits)
        with timings.stage("pack"):
            budget = chosen.context_tokens
            context = pack(found.hits, budget=budget, count_tokens=generator.count_tokens)
            frequencies = parts.frequencies(self.scope, shelved)
            request = Request(standalone, context, frequencies, sampling, read, shelved, unread)
        with timings.stage("support"):
            support = assess(request, found, parts)
        model = generator.id if support.enough else ""
        with timings.stage("generate", model) as span, parts.crowd.answering():
            generated = generator.answer(request) if support.enough else refuse(context)
            # What may yet be taken back is not shown before it is checked.
            shown = generated.quotes is not None or chosen.citation_policy == "mark"
            links, text = Links(generated.context), ""
            with chatting(span, sampling, generated.stream) as pieces:
                for piece in links.checked(pieces):
                    text += piece
                    if shown:
                        yield t.TextPiece(piece)
            generated.cuts += tuple(links.cuts)
        with timings.stage("cite"):
            if generated.quotes is None:
                checker = parts.checker_for(shelved)
                cited = cite(text, generated.context, checker, chosen.citation_policy)
            else:
                cited = cite_quotes(text, generated.quotes, links.inert)
        if not shown:
            yield t.TextPiece(cited.text)
        yield from cited.citations
        answer = compose(request, found, support, generated, cited, parts, timings, notes)
        answer, trace = traced(asked, request, found, generated, text, answer, parts, self.scope)
        if key is not None:
            vector = parts.embedder_for(shelved).embed_queries([standalone])[0]
            parts.answers.keep(key, Kept(standalone, vector, answer, trace))
        yield answer

    def _recall(
        self, asked: Asked, question: str, history: Sequence[t.Message], found: Collection
    ) -> tuple[str | None, Kept | None]:
        """(the key under which the answer is to be kept, an answer that is kept already)."""
        parts = self.parts
        if not parts.settings.answer_cache:
            return None, None
        key = key_of(self.scope, asked, history, found, parts.generator_for(found))
        if key is None:
            return None, None
        known = parts.answers.find(
            key,
            question,
            lambda: parts.embedder_for(found).embed_queries([question])[0],
            parts.settings.answer_cache_near,
            lambda one, other: parts.same_question_for(found)(one, other),
        )
        parts.metrics.looked_up(hit=known is not None)
        return key, known

    @contextmanager
    def continued(self, prompt: Prompt, sampling: Sampling) -> Iterator[TextStream]:
        """What the language model says to a prompt, without retrieval.

        Raises InvalidInput where no language model runs.
        """
        generator = self.parts.generator
        stream = plain(generator, prompt, sampling)
        with (
            ended(self.parts.spans.start(*step("generate", generator.id))) as span,
            self.parts.metrics.counted(stream),
            chatting(span, sampling, stream) as pieces,
        ):
            yield pieces

    def search(
        self,
        question: str,
        *,
        collection: str = "default",
        limit: int = 10,
        mode: Mode = "hybrid",
        rerank: bool = True,
        filter: Mapping[str, Any] | None = None,
    ) -> t.SearchResult:
        """The best hits, best first."""
        began, catalog = time.perf_counter(), self.parts.catalog
        found = catalog.collection(self.scope, collection)
        with ended(self.parts.spans.start(*retrieval(collection, limit))) as span:
            search = partial(
                self._search, question, limit=limit, mode=mode, rerank=rerank, filter=filter
            )
            try:
                result = search(found, Timings(span))
            except NotFound:
                # It was migrated since, and the index of before dropped?
                now = catalog.collection(self.scope, collection)
                if now.id == found.id:
                    raise
                result = search(now, Timings(span))
        self.parts.metrics.searched(time.perf_counter() - began, result.timings)
        return result

    def _search(
        self,
        question: str,
        found: Collection,
        timings: Timings,
        *,
        limit: int = 10,
        mode: Mode = "hybrid",
        rerank: bool = True,
        filter: Mapping[str, Any] | None = None,
    ) -> t.SearchResult:
        """The best hits of one index, whatever its name points at by the end."""
        parts, settings = self.parts, self.parts.settings
        chosen = choices(found, settings)
        check_search(question, limit, settings)
        conditions = parse_filter(filter)
        embedder = parts.embedder_for(found)
        with timings.stage("embed", embedder.id if mode != "bm25" else ""):
            vector = embedder.embed_queries([question])[0] if mode != "bm25" else None
        with timings.stage("retrieve"):
            hits, cuts = retrieve(
                parts.store,
                self.scope,
                shelf.index_of(found),
                question=question,
                vector=vector,
                mode=mode,
                choices=chosen,
                conditions=conditions,
                limit=max(settings.retrieve_limit, limit),
                live=parts.live_generations(self.scope, found),
            )
            hits, behind = as_patched(parts, found, hits, conditions)
            cuts += behind
        candidates, dropped = len(hits), []
        reranker = parts.reranker_for(found) if rerank and chosen.rerank_limit else None
        if reranker is not None:
            with timings.stage("rerank", reranker.id):
                depth = max(chosen.rerank_limit, limit)
                dropped = [
                    t.Dropped(hit, f"reranking reads the best {depth}") for hit in hits[depth:]
                ]
                frequencies = parts.frequencies(self.scope, found)
                budget = settings.rerank_budget_ms
                hits, late = by_relevance(
                    question,
                    hits,
                    reranker,
                    depth,
                    frequencies,
                    budget_ms=budget,
                    blend=chosen.rerank_blend,
                )
                cuts += late
        worse = [t.Dropped(hit, f"not among the best {limit}") for hit in hits[limit:]]
        return t.SearchResult(
            tuple(hits[:limit]), timings.seconds, tuple(cuts), candidates, (*worse, *dropped)
        )

    def ingest(
        self,
        *paths: str | Path,
        collection: str = "default",
        metadata: t.Metadata | None = None,
        password: str | None = None,
        on_progress: steps.OnProgress = steps.ignore,
    ) -> list[t.DocumentReport]:
        """Ingest files and folders, a report each; a file that fails does not stop the others.

        What is attached to a mail has a report of its own. `password` opens files that have one.
        It returns when all is searchable, and works in the caller's thread, without the journal.
        """
        shelf.ensure(self.parts, self.scope, collection)
        left_out, selection = LeftOut(), Selection(never=(self.parts.settings.data,))
        reports = []
        found = find(
            paths, metadata=metadata, password=password, selection=selection, left_out=left_out
        )
        for source in found:
            try:
                reports += self.add_all(source, collection=collection, on_progress=on_progress)
            except (InvalidInput, NotFound) as error:
                reports.append(steps.failed(source, error))
        return [*reports, *steps.unread(left_out)]

    def add(
        self,
        source: Source,
        *,
        collection: str = "default",
        on_progress: steps.OnProgress = steps.ignore,
    ) -> t.DocumentReport:
        """Ingest one document; until the flip, searches see what was there before.

        Its report; `add_all` has those of what is attached to it as well.
        """
        return self.add_all(source, collection=collection, on_progress=on_progress)[0]

    def add_all(
        self,
        source: Source,
        *,
        collection: str = "default",
        on_progress: steps.OnProgress = steps.ignore,
    ) -> list[t.DocumentReport]:
        """Ingest a document and then what is attached to it, a report each."""
        content = steps.read(source, self.parts.settings)
        try:
            report, children = self._add(source, content, collection, on_progress)
        except CollectionMoved:  # what was written is in the index of before: once more
            report, children = self._add(source, content, collection, on_progress)
        reports = [report]
        parent = self.parts.catalog.document(self.scope, collection, report.id)
        for child in (one.attached_to(parent.metadata) for one in children):
            file = replace(child.source, content=self.parts.objects.get(child.content_hash))
            try:
                reports += self.add_all(file, collection=collection, on_progress=on_progress)
            except (InvalidInput, Forbidden) as error:
                reports.append(steps.failed(file, error))
        return reports

    def _add(
        self, source: Source, content: bytes, collection: str, on_progress: steps.OnProgress
    ) -> tuple[t.DocumentReport, Sequence[Arrival]]:
        parts, scope, content_hash = self.parts, self.scope, digest(content)
        found = parts.catalog.collection(scope, collection)
        parts.embedder_for(found)  # before anything is begun: it may not be there
        if same := steps.unchanged(parts, scope, found, source, content_hash):
            parts.metrics.document(same.status)
            return same, missing(parts, scope, found, source)
        with steps.Unjournaled(parts, scope, found, source, content, on_progress) as keeper:
            report = self.build(source, content, content_hash, found, keeper)
        return report, keeper.children

    def build(
        self,
        source: Source,
        content: bytes | Path,
        content_hash: str,
        found: Collection,
        keeper: steps.Keeper,
    ) -> t.DocumentReport:
        """From bytes, or a file, to a live document, from where an earlier attempt ended."""
        timings = Timings()
        try:
            report = self._build(source, content, content_hash, found, keeper, timings)
        finally:
            self.parts.metrics.ingested(timings.seconds)
        self.parts.metrics.document(report.status)
        return report

    def _build(
        self,
        source: Source,
        content: bytes | Path,
        content_hash: str,
        found: Collection,
        keeper: steps.Keeper,
        timings: Timings,
    ) -> t.DocumentReport:
        parts, scope = self.parts, self.scope
        resumed = steps.resume(parts, keeper)
        if resumed is None:
            keeper.progress("parse")
            with timings.stage("parse"):
                document = steps.parse(parts, source, content)
            generation = steps.open_generation(parts, keeper, document)
        else:
            generation, document = resumed
        with keeper.room(document):
            options = shelf.split_options(parts, found, source, generation)
            with timings.stage("split"):
                split = split_document(document, **options)
            total = len(split.chunks)
            rest = split.chunks[keeper.stored() :]
            with closing(steps.embed(parts, found, rest)) as embedded:
                for chunks, vectors in timings.each("embed", embedded):
                    with timings.stage("store"):
                        steps.store(parts, scope, found, chunks, vectors)
                    keeper.progress("embed", chunks[-1].index + 1, total)
            children = enclosed(source, document)
            made = steps.revision(
                parts, found, source, content_hash, document, split, generation, children
            )
            return keeper.flip(made, children)

    def delete(self, document_id: str, *, collection: str = "default") -> None:
        """Delete a document: gone from answers when this returns, and its points with it.

        What was accepted of it before, and is not done yet, is cancelled. What is attached to it
        goes with it.
        """
        attached = self.parts.journal.delete_document(self.scope, collection, document_id)
        for gone in (document_id, *sorted(attached)):
            steps.purge(self.parts, self.scope, collection, gone)

    def delete_matching(
        self,
        filter: Mapping[str, Any],
        *,
        collection: str = "default",
        dry_run: bool = False,
        purge: bool = True,
    ) -> list[str]:
        """Delete all documents that a filter picks, in one transaction. Returns their ids.

        Effective when this returns; without `purge` their points are left to the next sweep. With
        `dry_run` nothing is deleted. Raises InvalidInput for a filter that would pick everything.
        """
        parts, scope = self.parts, self.scope
        conditions, still = listing.picked_for_deletion(filter)
        picked = listing.every(parts.catalog, scope, collection, conditions)
        ids = [record.id for record in picked]
        if dry_run:
            return ids
        deleted = parts.journal.delete_documents(scope, collection, ids, still)
        for document_id in deleted if purge else ():
            steps.purge(parts, scope, collection, document_id)
        return deleted

    def patch(
        self, document_id: str, merge: Mapping[str, Any], *, collection: str = "default"
    ) -> DocumentRecord:
        """Change a document's `title` and `metadata`, null removing, without embedding it again."""
        return change(self.parts, self.scope, collection, document_id, merge)

    def text(self, document_id: str, *, collection: str = "default") -> str:
        """A document's parsed text: what the offsets of chunks and citations count in."""
        record = self.parts.catalog.document(self.scope, collection, document_id)
        return self.parts.objects.get(record.text_hash).decode("utf8")
