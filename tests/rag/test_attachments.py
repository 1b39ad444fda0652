"""What is attached to a mail: documents of their own, which live and go with it."""

import io
from email.message import EmailMessage

import pytest
from fpdf import FPDF

from rag import collection as shelf
from rag import ingest as steps
from rag.attachments import enclosed
from rag.errors import NotFound
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.sources import Source
from rag.types import Attachment, Document, Scope
from rag.work import Priority, Work

LAMP, HORN = "The lamp of Bell Rock burns rape oil.", "The horn sounds twice a minute in fog."


def mail(body="See the files.", subject="Bell Rock", **files):
    """Names of files come with `_txt` for `.txt`; one that is a message is attached as such."""
    made = EmailMessage()
    made["Subject"] = subject
    made.set_content(body)
    for name, content in files.items():
        if isinstance(content, EmailMessage):
            made.add_attachment(content, filename=name.replace("_", "."))
        else:
            made.add_attachment(content, filename=name.replace("_", "."))
    return made


def sent(message, **more):
    return Source(name="a.eml", origin="a.eml", id="mail", content=message.as_bytes(), **more)


@pytest.fixture
def docs(rag):
    shelf.create(rag.parts, rag.scope, "docs")
    return rag


@pytest.fixture
def ingestor(docs):
    made = Ingestor(docs)
    made.start()
    yield made
    made.close()


@pytest.fixture(params=["in the background", "while the caller waits"])
def ingest(request, docs):
    """Ingests a mail, either way; (status or error of each document, in their order)."""
    if request.param == "while the caller waits":
        yield lambda source: [
            report.error or report.status for report in docs.add_all(source, collection="docs")
        ]
        return
    worker = Ingestor(docs)
    worker.start()

    def submit(source):
        file = io.BytesIO(source.content)
        job = worker.submit(docs.scope, "docs", [Upload(source, file)])
        worker.ended(job.id).result(timeout=60)
        ended = docs.parts.journal.job(docs.scope, job.id)
        return [t.error.message if t.error else t.report.status for t in ended.tasks]

    yield submit
    worker.close()


def records(docs):
    return {one.title: one for one in docs.parts.catalog.documents(docs.scope, "docs")}


def titles(docs):
    return sorted(records(docs))


def text(docs, record):
    return docs.text(record.id, collection="docs").rstrip("\n")


def fits(docs):
    for scope, collection, document in docs.parts.catalog.all_stale():  # the job may end before
        steps.purge(docs.parts, scope, collection, document)
    assert list(examine(docs.parts)) == []
    return True


def test_attachments_are_documents_of_their_own(docs, ingest):
    source = sent(mail(lamp_txt=LAMP, horn_txt=HORN), metadata={"team": "harbour"})
    assert ingest(source) == ["ingested"] * 3
    found = records(docs)
    lamp = found["lamp.txt (attached to Bell Rock)"]
    assert (lamp.parent, lamp.source) == ("mail", "a.eml#lamp.txt")
    assert lamp.metadata == {"team": "harbour", "parent": "mail"}
    assert found["Bell Rock"].parent is None
    assert text(docs, lamp) == LAMP
    answer = docs.ask("What does the lamp of Bell Rock burn?", collection="docs")
    (citation, *_) = answer.citations
    assert (citation.document_id, citation.quote) == (lamp.id, LAMP)
    hits = docs.search("horn in fog", collection="docs", filter={"parent": "mail"}).hits
    assert {hit.chunk.source for hit in hits} == {"a.eml#lamp.txt", "a.eml#horn.txt"}
    assert fits(docs)


def test_the_same_mail_again_is_no_work(ingest):
    source = sent(mail(lamp_txt=LAMP))
    assert ingest(source) == ["ingested", "ingested"]
    assert ingest(source) == ["unchanged"]


def test_a_new_version_replaces_adds_and_removes(docs, ingest):
    ingest(sent(mail(lamp_txt=LAMP, horn_txt=HORN)))
    before = records(docs)["lamp.txt (attached to Bell Rock)"]
    assert ingest(sent(mail("New.", lamp_txt=LAMP + " Daily.", oil_txt="Oil costs more now."))) == [
        "replaced", "replaced", "ingested"
    ]  # fmt: skip
    assert titles(docs) == [
        "Bell Rock", "lamp.txt (attached to Bell Rock)", "oil.txt (attached to Bell Rock)"
    ]  # fmt: skip
    after = records(docs)["lamp.txt (attached to Bell Rock)"]
    assert after.id == before.id
    assert text(docs, after).endswith("Daily.")
    assert docs.search("horn in fog", collection="docs", mode="bm25").hits == ()
    assert fits(docs)
    plain = Source(name="a.eml", origin="a.eml", id="mail", content=b"No mail any more.")
    assert ingest(plain) == ["replaced"]
    assert len(records(docs)) == 1
    assert fits(docs)


def test_a_deleted_mail_takes_all_below_it_along(docs, ingest):
    inner = mail(subject="Inner", deep_txt="Deep is the sea around the rock.")
    assert ingest(sent(mail(inner_eml=inner, lamp_txt=LAMP))) == ["ingested"] * 4
    found = records(docs)
    below = found["inner.eml (attached to Bell Rock)"]
    (deep,) = [one for one in found.values() if one.parent == below.id]
    assert deep.title == "deep.txt (attached to inner.eml (attached to Bell Rock))"
    docs.delete("mail", collection="docs")
    assert titles(docs) == []
    assert docs.search("sea around the rock", collection="docs").hits == ()
    assert list(docs.parts.objects.names()) == []
    assert fits(docs)


def test_an_attachment_can_be_deleted_alone(docs, ingest):
    source = sent(mail(lamp_txt=LAMP, horn_txt=HORN))
    ingest(source)
    lamp = records(docs)["lamp.txt (attached to Bell Rock)"]
    docs.delete(lamp.id, collection="docs")
    assert len(titles(docs)) == 2
    assert fits(docs)
    # Whoever sends the mail again asks for all of it.
    assert ingest(source) == ["unchanged", "ingested"]
    assert text(docs, lamp) == LAMP


def test_an_attachment_that_fails_is_not_the_mail_s_failure(docs, ingest):
    source = sent(mail(torn_pdf="%PDF-1.7 torn", lamp_txt=LAMP))
    status, torn, lamp = ingest(source)
    assert (status, lamp) == ("ingested", "ingested")
    assert "damaged" in torn or "cannot be read" in torn
    assert ingest(source) == ["unchanged", torn]  # tried again, and it alone
    assert fits(docs)


def test_files_of_one_name_are_told_apart(docs, ingest):
    made = mail()
    for content in (LAMP, HORN):
        made.add_attachment(content, filename="note.txt")
    assert ingest(sent(made)) == ["ingested"] * 3
    texts = {text(docs, one) for one in records_by_parent(docs)}
    assert texts == {LAMP, HORN}


def records_by_parent(docs):
    return [one for one in docs.parts.catalog.documents(docs.scope, "docs") if one.parent]


def test_mails_within_mails_end_somewhere(docs, ingest, monkeypatch):
    settings = docs.parts.settings.model_copy(update={"max_attachment_depth": 1})
    monkeypatch.setattr(docs.parts, "settings", settings)
    inner = mail(subject="Inner", deep_txt="Deep is the sea.")
    assert ingest(sent(mail(inner_eml=inner))) == ["ingested", "ingested"]
    (below,) = records_by_parent(docs)
    (warning,) = below.warnings[:1]
    assert warning.startswith("attachment deep.txt was left out: RAG_MAX_ATTACHMENTS and")


def test_a_password_opens_what_is_attached(ingest):
    locked = FPDF()
    locked.add_page()
    locked.set_font("Helvetica", size=12)
    locked.cell(text="The secret of the rock.")
    locked.set_encryption("owner", user_password="oil")
    message = mail()
    content = bytes(locked.output())
    message.add_attachment(content, maintype="application", subtype="pdf", filename="s.pdf")
    status, refused = ingest(sent(message))
    assert (status, refused) == ("ingested", "The PDF needs a password.")
    assert ingest(sent(message, password="lamp"))[1] == "The password does not open the PDF."
    assert ingest(sent(message, password="oil"))[1] == "ingested"


def test_children_are_named_by_the_mail_and_their_place_in_it():
    files = [Attachment(name, "text/plain", "hash") for name in ("a.txt", "b.txt", "a.txt")]
    document = Document("x", "T" * 200, "message/rfc822", attachments=tuple(files))
    source = Source(name="m.eml", origin="in/m.eml", id="m", metadata={"k": 1}, password="p")
    children = [one.source for one in enclosed(source, document)]
    assert [one.origin for one in children] == [
        "in/m.eml#a.txt",
        "in/m.eml#b.txt",
        "in/m.eml#a.txt",
    ]
    assert len({one.id for one in children}) == 3
    assert [one.depth for one in children] == [1] * 3
    assert children[0].title == f"a.txt (attached to {'T' * 100}…)"
    without_first = Document("x", "T", "message/rfc822", attachments=tuple(files[1:]))
    again = [one.source.id for one in enclosed(source, without_first)]
    assert again == [children[1].id, children[0].id]  # the only a.txt now is the first one
    other = Source(name="m.eml", origin="in/m.eml", id="other")
    assert not {one.source.id for one in enclosed(other, document)} & {one.id for one in children}


def test_a_mail_that_was_parsed_before_a_crash_keeps_its_attachments(docs, monkeypatch):
    """Its text is kept, so it is not parsed again: its files must be, too."""
    first = Ingestor(docs)
    stop = RuntimeError("killed")

    def store(*_):
        raise stop

    source = sent(mail(lamp_txt=LAMP))
    monkeypatch.setattr(steps, "store", store)
    upload = Upload(source, io.BytesIO(source.content))
    job = first.submit(docs.scope, "docs", [upload])
    task = docs.parts.journal.claim(per_collection=1)
    with pytest.raises(RuntimeError):
        first._ingest(task, first._keeper(task, Work(Priority.BULK)))
    monkeypatch.undo()

    def parse(*_):
        raise AssertionError("it was parsed already")

    second = Ingestor(docs)
    docs.parts.journal._claims.clear()  # as a new process's
    calls = []
    real = steps.parse
    monkeypatch.setattr(steps, "parse", lambda p, s, c: calls.append(s.name) or real(p, s, c))
    second.start()
    second.ended(job.id).result(timeout=60)
    second.close()
    assert calls == ["lamp.txt"]
    assert len(titles(docs)) == 2
    assert fits(docs)


def test_cancelling_a_mail_s_job_cancels_what_is_attached(docs):
    waiting = Ingestor(docs)
    source = sent(mail(lamp_txt=LAMP))
    job = waiting.submit(docs.scope, "docs", [Upload(source, io.BytesIO(source.content))])
    journal = docs.parts.journal
    waiting._attempt(journal.claim(per_collection=1))
    assert [t.state for t in journal.job(docs.scope, job.id).tasks] == ["done", "queued"]
    assert not journal.has_ended(job.id)
    journal.cancel(docs.scope, job.id)
    assert [t.state for t in journal.job(docs.scope, job.id).tasks] == ["done", "cancelled"]
    assert titles(docs) == ["Bell Rock"]
    journal.retry(docs.scope, job.id)
    waiting._attempt(journal.claim(per_collection=1))
    assert len(titles(docs)) == 2
    assert fits(docs)


def test_deleting_a_mail_cancels_what_is_not_done_of_it(docs):
    waiting = Ingestor(docs)
    source = sent(mail(lamp_txt=LAMP))
    job = waiting.submit(docs.scope, "docs", [Upload(source, io.BytesIO(source.content))])
    journal = docs.parts.journal
    waiting._attempt(journal.claim(per_collection=1))
    docs.delete("mail", collection="docs")
    assert journal.job(docs.scope, job.id).tasks[1].state == "cancelled"
    assert journal.claim(per_collection=1) is None
    assert titles(docs) == []
    assert list(docs.parts.objects.names()) == []
    assert fits(docs)


def test_an_attachment_sent_by_itself_is_a_document_of_its_own(docs, ingest):
    """Then it does not go with the mail any more."""
    ingest(sent(mail(lamp_txt=LAMP)))
    (lamp,) = records_by_parent(docs)
    own = Source(name="lamp.txt", origin="lamp.txt", id=lamp.id, content=b"Electric.")
    assert ingest(own) == ["replaced"]
    docs.delete("mail", collection="docs")
    assert docs.text(lamp.id, collection="docs") == "Electric."
    with pytest.raises(NotFound):
        docs.text("mail", collection="docs")


def test_fsck_finds_an_attachment_whose_mail_is_gone(docs, ingest):
    ingest(sent(mail(lamp_txt=LAMP)))
    with docs.parts.database.write() as connection:
        connection.exec_driver_sql("UPDATE documents SET parent = 'nowhere' WHERE parent = 'mail'")
    (finding,) = examine(docs.parts)
    assert finding.kind == "orphan attachment"
    finding.repair()
    assert titles(docs) == ["Bell Rock"]
    assert fits(docs)


def test_who_may_see_a_mail_may_see_what_is_attached_to_it(docs, ingest):
    """Also when that is changed later: else a mail that is taken back would leave its files."""
    ingest(sent(mail(lamp_txt=LAMP), metadata={"acl": ["hr"]}))
    outside = docs.within(Scope("default", groups=frozenset({"it"})))

    def seen():
        hits = outside.search("lamp of Bell Rock", collection="docs").hits
        listed = outside.parts.catalog.documents(outside.scope, "docs")
        assert {hit.chunk.document_id for hit in hits} == {one.id for one in listed}
        return len(listed)

    assert seen() == 0
    docs.patch("mail", {"metadata": {"acl": None}}, collection="docs")
    assert seen() == 2
    docs.patch("mail", {"metadata": {"acl": ["hr"]}}, collection="docs")
    assert seen() == 0
    lamp = records(docs)["lamp.txt (attached to Bell Rock)"]
    assert lamp.metadata == {"acl": ["hr"], "parent": "mail"}
    assert fits(docs)


def test_an_attachment_replaces_nothing_that_its_sender_does_not_see(docs, ingestor):
    """Its id is known beforehand, so that somebody's document may have it already."""
    outside = docs.within(Scope("default", groups=frozenset({"it"})))
    mine = sent(mail(lamp_txt=LAMP), metadata={"acl": ["it"]})
    _, lamp = outside.add_all(mine, collection="docs")
    docs.delete("mail", collection="docs")
    theirs = Source("lamp", "lamp", id=lamp.id, text="Of hr.", metadata={"acl": ["hr"]})
    docs.add(theirs, collection="docs")

    first, second = outside.add_all(mine, collection="docs")
    assert (first.status, second.status) == ("ingested", "failed")
    assert "not yours to replace" in second.error
    docs.delete("mail", collection="docs")
    job = ingestor.submit(outside.scope, "docs", [Upload(mine, io.BytesIO(mine.content))])
    ingestor.ended(job.id).result(timeout=60)
    parent, child = docs.parts.journal.job(docs.scope, job.id).tasks
    assert (parent.state, child.state) == ("done", "failed")
    assert "not yours to replace" in child.error.message
    assert docs.text(lamp.id, collection="docs") == "Of hr."
    assert fits(docs)


def test_what_is_hidden_of_a_mail_is_not_opened_with_it(docs, ingest):
    """Somebody took one attachment back: who opens the mail does not see it, and opens it not."""
    ingest(sent(mail(lamp_txt=LAMP, horn_txt=HORN)))
    lamp = records(docs)["lamp.txt (attached to Bell Rock)"]
    docs.patch(lamp.id, {"metadata": {"acl": ["hr"]}}, collection="docs")
    outside = docs.within(Scope("default", groups=frozenset({"it"})))
    outside.patch("mail", {"metadata": {"acl": ["it"]}}, collection="docs")
    acls = {title: record.metadata["acl"] for title, record in records(docs).items()}
    assert acls == {
        "Bell Rock": ["it"],
        "horn.txt (attached to Bell Rock)": ["it"],
        "lamp.txt (attached to Bell Rock)": ["hr"],
    }
    deleted = outside.delete_matching({"document_id": "mail"}, collection="docs")
    assert lamp.id not in deleted  # it goes with the mail, and nobody is told
    assert records(docs) == {}
    assert fits(docs)


def test_a_new_version_of_a_mail_that_was_taken_back_opens_nothing(docs, ingest):
    """Neither the mail, nor what was attached to it, nor what is new."""
    ingest(sent(mail(lamp_txt=LAMP)))
    docs.patch("mail", {"metadata": {"acl": ["hr"]}}, collection="docs")
    ingest(sent(mail("See the other files.", lamp_txt=LAMP + " Again.", horn_txt=HORN)))
    assert {record.metadata["acl"][0] for record in records(docs).values()} == {"hr"}
    assert len(records(docs)) == 3
    outside = docs.within(Scope("default", groups=frozenset({"it"})))
    assert outside.search("lamp horn Bell Rock", collection="docs").hits == ()
    assert fits(docs)
