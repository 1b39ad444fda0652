"""Documents, jobs and collections."""

import io
import json
import threading
from email.message import EmailMessage

import pytest
from docx import Document as WordDocument
from fpdf import FPDF

from rag import ingest as steps
from rag.sources import derived_id
from tests.services.serving import BELL_ROCK, events_of, is_problem, serving, with_settings


def pdf(*pages: str, password: str = "") -> bytes:
    made = FPDF()
    made.set_font("Helvetica", size=12)
    for text in pages:
        made.add_page()
        made.multi_cell(0, 8, text)
    if password:
        made.set_encryption(owner_password=password, user_password=password)
    return bytes(made.output())


def upload(client, collection, *files, wait=True, **fields):
    sent = [("files", (name, content)) for name, content in files]
    where = "/v1/documents?wait=true" if wait else "/v1/documents"
    return client.post(where, files=sent, data={"collection": collection, **fields})


def ask(client, collection, question):
    response = client.post("/v1/ask", json={"collection": collection, "question": question})
    assert response.status_code == 200
    return response.json()


def test_upload_ask_delete_ask_again(client, collection):
    lit = "The lamp of Muckle Flugga was first lit in 1854."
    content = pdf(lit, "Its keepers were relieved by boat.")
    response = upload(client, collection, ("flugga.pdf", content), metadata='{"sea": "north"}')
    assert response.status_code == 200
    (report,) = response.json()["documents"]
    assert report.pop("tokens") > 10
    document = report.pop("id")
    assert report == {
        "status": "ingested", "source": "flugga.pdf", "title": "flugga", "pages": 2,
        "chunks": report["chunks"], "characters": report["characters"], "truncated_tokens": 0,
        "warnings": [],
    }  # fmt: skip

    question = "When was the lamp of Muckle Flugga first lit?"
    answer = ask(client, collection, question)
    assert "1854" in answer["answer"]
    cited = next(one for one in answer["citations"] if "1854" in one["quote"])
    assert (cited["document_id"], cited["source"], cited["page"]) == (document, "flugga.pdf", 1)

    where = f"/v1/documents/{document}?collection={collection}"
    found = client.get(where).json()
    assert (found["pages"], found["media_type"]) == (2, "application/pdf")
    assert found["metadata"] == {"sea": "north"}
    text = client.get(f"/v1/documents/{document}/text?collection={collection}")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text[cited["start"] : cited["end"]] == cited["quote"]

    assert client.delete(where).status_code == 204
    assert (
        ask(client, collection, "When was the lamp of Muckle Flugga first lit?")["abstained"]
        is True
    )
    is_problem(client.delete(where), 404, "/problems/not-found")
    is_problem(client.get(where), 404, "/problems/not-found")


def test_the_same_file_name_again_replaces(client, collection):
    first = upload(client, collection, ("notes.txt", b"The lamp burns oil.")).json()
    again = upload(client, collection, ("notes.txt", b"The lamp burns oil.")).json()
    other = upload(client, collection, ("notes.txt", b"The lamp is electric now.")).json()
    reports = [sent["documents"][0] for sent in (first, again, other)]
    assert [report["status"] for report in reports] == ["ingested", "unchanged", "replaced"]
    assert len({report["id"] for report in reports}) == 1


def test_a_file_is_known_by_the_source_that_is_sent_with_it(client, collection):
    files = [("x", b"The lamp burns oil."), ("y", b"The horn sounds.")]
    sources = json.dumps(["/srv/docs/lamp.txt", '/srv/docs/a "horn".txt'])
    sent = upload(client, collection, *files, sources=sources).json()["documents"]
    assert [one["source"] for one in sent] == json.loads(sources)
    assert sent[0]["id"] == derived_id("lamp.txt", "/srv/docs/lamp.txt")
    again = upload(client, collection, ("z", b"It is electric."), sources='["/srv/docs/lamp.txt"]')
    (report,) = again.json()["documents"]
    assert (report["id"], report["status"]) == (sent[0]["id"], "replaced")


def test_several_files_in_either_field(client, collection):
    word = io.BytesIO()
    made = WordDocument()
    made.add_paragraph("A lens of the first order weighs five tons.")
    made.save(word)
    files = [
        ("files", ("lens.docx", word.getvalue())),
        ("file", ("fog.md", b"# Fog\n\nA siren sounds twice a minute.")),
    ]
    response = client.post("/v1/documents?wait=true", files=files, data={"collection": collection})
    assert [one["status"] for one in response.json()["documents"]] == ["ingested", "ingested"]
    listed = client.get(f"/v1/documents?collection={collection}").json()["documents"]
    assert {one["source"] for one in listed} == {"lens.docx", "fog.md"}


def test_id_and_title_of_a_single_file(client, collection):
    response = upload(
        client, collection, ("a.txt", b"The tower is white."), id="shelf/1/text", title="Tower"
    )
    assert response.json()["documents"][0]["id"] == "shelf/1/text"
    # An id may end like the route of a text; the document is found all the same.
    found = client.get(f"/v1/documents/shelf/1/text?collection={collection}").json()
    assert (found["id"], found["title"]) == ("shelf/1/text", "Tower")
    text = client.get(f"/v1/documents/shelf/1/text/text?collection={collection}").text
    assert text.strip() == "The tower is white."


def test_an_answer_at_once_and_a_job_that_ends(client, collection):
    sent = {"collection": collection, "documents": [{"id": "x", "text": "Oil lamps smoke."}]}
    response = client.post("/v1/documents", json=sent)
    assert response.status_code == 202
    assert set(response.json()) == {"documents", "job_id"}
    assert response.json()["documents"][0]["id"] == "x"
    job_id = response.json()["job_id"]
    client.app.state.service.ingestor.ended(job_id).result(timeout=30)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["job_id"], job["state"], job["collection"]) == (job_id, "done", collection)
    assert job["documents"][0]["status"] == "ingested"
    is_problem(client.get("/v1/jobs/unknown"), 404, "/problems/not-found")


def test_texts_are_known_by_id_by_source_or_by_what_they_say(client, collection):
    documents = [
        {"id": "one", "text": "First."},
        {"source": "https://example.org/two", "text": "Second."},
        {"title": "Three", "text": "Third."},
    ]
    sent = {"collection": collection, "documents": documents}
    ids = []
    for expected in ("ingested", "unchanged"):
        reports = client.post("/v1/documents?wait=true", json=sent).json()["documents"]
        assert [report["status"] for report in reports] == [expected] * 3
        ids.append([report["id"] for report in reports])
    assert ids[0] == ids[1]
    assert ids[0][0] == "one"
    assert ids[0][1].startswith("https-example-org-two-")
    assert ids[0][2].startswith("three-")


def test_the_default_collection_is_made_on_first_use(parts, tmp_path):
    from tests.services.serving import reopened

    with reopened(parts, tmp_path) as fresh, serving(fresh) as client:
        is_problem(client.post("/v1/ask", json={"question": "Who?"}), 404, "/problems/not-found")
        sent = {"documents": [{"id": "bell-rock", "text": BELL_ROCK}]}
        assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
        assert [one["id"] for one in client.get("/v1/documents").json()["documents"]] == [
            "bell-rock"
        ]
        assert "Stevenson" in client.post("/v1/ask", json={"question": "Who built it?"}).text


def test_pages_of_documents(client, collection):
    documents = [{"id": name, "text": f"Text {name}."} for name in "abcde"]
    sent = {"collection": collection, "documents": documents}
    assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
    pages, cursor = [], ""
    while cursor is not None:
        where = f"/v1/documents?collection={collection}&limit=2&cursor={cursor}"
        page = client.get(where).json()
        pages.append([one["id"] for one in page["documents"]])
        cursor = page["next"]
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_one_that_fails_does_not_stop_the_others(client, collection):
    files = [("good.txt", b"The light is red."), ("bad.pdf", b"%PDF-1.7 nothing")]
    response = upload(client, collection, *files)
    assert response.status_code == 200
    good, bad = response.json()["documents"]
    assert good["status"] == "ingested"
    assert "error" not in good
    assert bad["status"] == "failed"
    assert bad["error"]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("../../../etc/keepers.txt", 200),
        ("..\\..\\keepers.txt", 200),
        ("keepers\x00.txt", 422),
        ("keepers\u202efdp.txt", 422),  # shows as `keeperstxt.pdf`
    ],
)
def test_a_file_name_is_only_a_name(client, collection, name, status):
    disposition = 'Content-Disposition: form-data; name="{}"'.format
    body = "\r\n".join(
        (
            *("--x", disposition("collection"), "", collection),
            *("--x", f'{disposition("files")}; filename="{name}"', "", "Four keepers."),
            *("--x--", ""),
        )
    )
    response = client.post(
        "/v1/documents?wait=true",
        content=body.encode(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert response.status_code == status
    if status == 200:
        document = response.json()["documents"][0]["id"]
        found = client.get(f"/v1/documents/{document}?collection={collection}").json()
        assert found["title"] == "keepers"


@pytest.mark.parametrize(
    ("name", "content", "status", "kind"),
    [
        ("empty.txt", b"", 422, "/problems/empty-document"),
        ("broken.pdf", b"%PDF-1.7 nothing", 422, "/problems/malformed-document"),
        ("photo.gif", b"GIF89a" + b"\x01\x02" * 50, 415, "/problems/unsupported-type"),
        ("locked.pdf", pdf("Secret.", password="sesame"), 422, "/problems/encrypted-document"),
        ("blank.pdf", pdf(""), 422, None),
    ],
)  # fmt: skip
def test_a_single_file_that_fails_is_a_problem(client, collection, name, content, status, kind):
    response = upload(client, collection, (name, content))
    kind = kind or response.json()["type"]
    found = is_problem(response, status, kind)
    assert kind in {
        "/problems/empty-document", "/problems/malformed-document", "/problems/unsupported-type",
        "/problems/encrypted-document", "/problems/needs-ocr",
    }  # fmt: skip
    assert found["detail"]
    # Not waited for, the same file is an item of the job.
    accepted = upload(client, collection, (name, content), wait=False).json()
    client.app.state.service.ingestor.ended(accepted["job_id"]).result(timeout=30)
    assert client.get(f"/v1/jobs/{accepted['job_id']}").json()["state"] == "failed"


@pytest.mark.parametrize(
    ("files", "fields", "named"),
    [
        ([("a.txt", b"A")], {"title": "A\0"}, "title"),
        ([("a.txt", b"A"), ("b.txt", b"B")], {"id": "one"}, "id"),
        ([("a.txt", b"A")], {"metadata": "{no json"}, "metadata"),
        ([("a.txt", b"A")], {"metadata": '{"deep": {"er": 1}}'}, "metadata.deep"),
        ([("a.txt", b"A")], {"metadata": "[1]"}, "metadata"),
        ([("a.txt", b"A")], {"colection": "typo"}, "colection"),
        ([("a.txt", b"A")], {"id": "\x07"}, "id"),
        ([("a.txt", b"A")], {"sources": "a.txt"}, "sources"),
        ([("a.txt", b"A")], {"sources": '["a\\u0000"]'}, "sources"),
        ([("a.txt", b"A")], {"sources": '["a", "b"]'}, "1 files and 2 sources"),
        ([], {"title": "no file"}, "files"),
    ],
)
def test_a_wrong_form_names_the_field(client, collection, files, fields, named):
    if not files:
        # A form without files would be sent urlencoded.
        sent = {"files": (None, "a text, not a file")}
        response = client.post("/v1/documents", files=sent, data=fields)
    else:
        response = upload(client, collection, *files, **fields)
    found = is_problem(response, 422, "/problems/invalid-input")
    assert named in found["detail"]


def test_an_unknown_collection_is_404_with_a_hint(client):
    sent = {"collection": "nowhere", "documents": [{"text": "A."}]}
    found = is_problem(client.post("/v1/documents", json=sent), 404, "/problems/not-found")
    assert "nowhere" in found["detail"]
    assert found["hint"]
    is_problem(upload(client, "nowhere", ("a.txt", b"A")), 404, "/problems/not-found")
    is_problem(client.get("/v1/documents?collection=nowhere"), 404, "/problems/not-found")


def test_limits_of_an_upload(parts, collection):
    small = with_settings(parts, max_file_bytes=1000, max_documents=2, max_metadata_bytes=20)
    with serving(small) as client:
        too_large = "/problems/too-large"
        is_problem(upload(client, collection, ("a.txt", b"a" * 1001)), 413, too_large)
        is_problem(upload(client, collection, ("a.txt", b"a" * 3_000_000)), 413, too_large)
        three = [(f"{n}.txt", b"a") for n in range(3)]
        is_problem(upload(client, collection, *three), 413, too_large)
        many = [{"text": f"{n}"} for n in range(3)]
        sent = {"collection": collection, "documents": many}
        is_problem(client.post("/v1/documents", json=sent), 413, too_large)
        sent = {"collection": collection, "documents": [{"text": "a" * 1001}]}
        is_problem(client.post("/v1/documents?wait=true", json=sent), 413, too_large)
        long = json.dumps({"note": "x" * 30})
        is_problem(upload(client, collection, ("a.txt", b"a"), metadata=long), 413, too_large)
        assert upload(client, collection, ("a.txt", b"a" * 1000)).status_code == 200


def test_a_body_that_does_not_say_how_long_it_is_is_counted(client):
    def endless():
        yield b'{"question": "'
        for _ in range(40):
            yield b"x" * 65536

    headers = {"content-type": "application/json"}
    response = client.post("/v1/ask", content=endless(), headers=headers)
    is_problem(response, 413, "/problems/too-large")


def test_collections_are_made_changed_listed_and_deleted(client, collection):
    name = f"{collection}-de"
    asked = {"name": name, "settings": {"bm25_language": "german"}, "answer_language": "German"}
    made = client.post("/v1/collections", json=asked)
    assert made.status_code == 201
    assert made.json()["settings"] == {"bm25_language": "german"}
    assert made.json()["embedder"] == "sentence-transformers/all-MiniLM-L6-v2"
    is_problem(client.post("/v1/collections", json=asked), 409, "/problems/conflict")

    where = f"/v1/collections/{name}"
    changed = client.patch(where, json={"settings": {"fusion": "rrf"}, "system_prompt": "Be kind."})
    assert changed.json()["settings"] == {"bm25_language": "german", "fusion": "rrf"}
    assert client.get(where).json() == changed.json()
    assert changed.json()["answer_language"] == "German"
    back = client.patch(where, json={"settings": {"fusion": None}}).json()
    assert back["settings"] == {"bm25_language": "german"}

    listed = client.get("/v1/collections").json()["collections"]
    assert name in [one["name"] for one in listed]
    assert client.delete(where).status_code == 204
    is_problem(client.get(where), 404, "/problems/not-found")
    is_problem(client.patch(where, json={}), 404, "/problems/not-found")
    is_problem(client.delete(where), 404, "/problems/not-found")


def test_the_bm25_language_of_a_filled_collection_stays(client, lighthouses):
    where = f"/v1/collections/{lighthouses}"
    german = {"settings": {"bm25_language": "german"}}
    is_problem(client.patch(where, json=german), 409, "/problems/conflict")
    assert client.get(where).json()["chunks"] == 2
    same = {"settings": {"bm25_language": "english"}}
    assert client.patch(where, json=same).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Not A Name"},
        {"name": "a", "settings": {"fusion": "sum"}},
        {"name": "a", "settings": {"bm25_language": "klingon"}},
        {"name": "a", "settings": {"colour": "red"}},
        {"name": "a", "answer_language": "x" * 51},
    ],
)
def test_a_wrong_collection_is_refused(client, wrong):
    is_problem(client.post("/v1/collections", json=wrong), 422, "/problems/invalid-input")


def test_half_a_surrogate_in_a_text_is_replaced_and_elsewhere_refused(client, collection):
    def send(**document):
        body = json.dumps({"collection": collection, "documents": [document]}).encode()
        headers = {"content-type": "application/json"}
        return client.post("/v1/documents?wait=true", content=body, headers=headers)

    (report,) = send(text="The tower \ud800 stands.").json()["documents"]
    assert report["status"] == "ingested"
    assert len(report["warnings"]) == 1
    for field in ("id", "title", "source"):
        found = is_problem(send(text="A.", **{field: "\ud800"}), 422, "/problems/invalid-input")
        assert found["errors"][0]["field"] == f"documents.0.{field}"


# Jobs


def test_a_job_is_followed_to_its_end(client, collection):
    documents = [{"id": f"d{n}", "text": f"Text number {n}."} for n in range(3)]
    sent = client.post("/v1/documents", json={"collection": collection, "documents": documents})
    job_id = sent.json()["job_id"]
    response = client.get(f"/v1/jobs/{job_id}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [name for name, _ in events[:-1]] == ["job"] * (len(events) - 1)
    name, last = events[-1]
    assert (name, last["state"], last["done"], last["total"]) == ("end", "done", 3, 3)
    assert [one["status"] for one in last["documents"]] == ["ingested"] * 3
    is_problem(client.get("/v1/jobs/unknown/events"), 404, "/problems/not-found")


def test_jobs_are_listed_newest_first(client, collection):
    made = []
    for n in range(3):
        sent = {"collection": collection, "documents": [{"id": "d", "text": f"Version {n}."}]}
        made.append(client.post("/v1/documents?wait=true", json=sent).json()["job_id"])
    page = client.get(f"/v1/jobs?collection={collection}&limit=2").json()
    assert [job["job_id"] for job in page["jobs"]] == made[:0:-1]
    rest = client.get(f"/v1/jobs?collection={collection}&before={page['next']}").json()
    assert [job["job_id"] for job in rest["jobs"]] == made[:1]
    assert rest["next"] is None


def test_the_same_idempotency_key_does_nothing_more(client, collection):
    sent = {"collection": collection, "documents": [{"id": "d", "text": "Once."}]}
    key = {"Idempotency-Key": f"key of {collection}"}
    first = client.post("/v1/documents?wait=true", json=sent, headers=key).json()
    again = client.post("/v1/documents?wait=true", json=sent, headers=key).json()
    assert again == first
    assert len(client.get(f"/v1/jobs?collection={collection}").json()["jobs"]) == 1
    other = sent | {"documents": [{"id": "d", "text": "Twice."}]}
    is_problem(client.post("/v1/documents", json=other, headers=key), 409, "/problems/conflict")


def test_a_failed_job_is_tried_again(client, collection):
    failed = upload(client, collection, ("torn.pdf", b"%PDF-1.7 torn"), wait=False).json()
    service = client.app.state.service
    service.ingestor.ended(failed["job_id"]).result(timeout=30)
    response = client.post(f"/v1/jobs/{failed['job_id']}/retry")
    assert (response.status_code, response.json()["documents"][0]["status"]) == (202, "queued")
    service.ingestor.ended(failed["job_id"]).result(timeout=30)
    job = client.get(f"/v1/jobs/{failed['job_id']}").json()
    assert (job["state"], job["documents"][0]["status"]) == ("failed", "failed")
    done = upload(client, collection, ("a.txt", b"Fine.")).json()["job_id"]
    is_problem(client.post(f"/v1/jobs/{done}/retry"), 409, "/problems/conflict")
    cancelled = client.post(f"/v1/jobs/{done}/cancel").json()
    assert cancelled["state"] == "done"  # nothing was left to cancel


def test_a_full_journal_is_429_with_retry_after(own_parts, monkeypatch):
    release = threading.Event()

    def parse(*arguments, parse=steps.parse):
        assert release.wait(30)
        return parse(*arguments)

    monkeypatch.setattr(steps, "parse", parse)
    with serving(with_settings(own_parts, ingest_queue=1)) as client:

        def send(name):
            sent = {"documents": [{"id": name, "text": f"Text {name}."}]}
            return client.post("/v1/documents", json=sent)

        running = send("a").json()["job_id"]
        response = send("b")
        is_problem(response, 429, "/problems/overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get(f"/v1/jobs/{running}").json()["state"] in ("queued", "running")
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/search", json={"query": "a"}).is_success
        release.set()
        client.app.state.service.ingestor.ended(running).result(timeout=30)
        assert client.get(f"/v1/jobs/{running}").json()["state"] == "done"
        assert send("b").status_code == 202


def test_a_mail_s_attachments_are_documents_that_name_it(client, collection):
    mail = EmailMessage()
    mail["Subject"] = "Bell Rock"
    mail.set_content("See the file.")
    mail.add_attachment("The lamp burns rape oil.", filename="lamp.txt")
    mail.add_attachment(b"\x00\x01", maintype="application", subtype="x-odd", filename="odd.bin")
    response = upload(client, collection, ("a.eml", mail.as_bytes()))
    sent, attached = response.json()["documents"]
    assert (sent["status"], attached["status"]) == ("ingested", "ingested")
    assert "parent" not in sent
    assert attached["parent"] == sent["id"]
    (warning,) = sent["warnings"]
    assert warning == "attachment odd.bin was left out: no parser reads application/x-odd"

    where = "/v1/documents/{}?collection=" + collection
    child = client.get(where.format(attached["id"])).json()
    assert (child["parent"], child["source"]) == (sent["id"], "a.eml#lamp.txt")
    assert client.get(where.format(sent["id"])).json()["parent"] is None
    body = {"query": "Which oil does it burn?", "collection": collection}
    hits = client.post("/v1/search", json=body).json()["hits"]
    assert hits[0]["document_id"] == attached["id"]
    assert client.delete(where.format(sent["id"])).status_code == 204
    is_problem(client.get(where.format(attached["id"])), 404, "/problems/not-found")


def test_a_password_opens_a_file_and_is_never_shown(client, collection, caplog):
    locked = ("rock.pdf", pdf("The lamp burns oil.", password="k3rosene"))
    kind = "/problems/encrypted-document"
    found = is_problem(upload(client, collection, locked), 422, kind)
    assert "needs a password" in found["detail"]
    found = is_problem(upload(client, collection, locked, password="wr0ng"), 422, kind)
    assert "does not open" in found["detail"]
    response = upload(client, collection, locked, password="k3rosene")
    assert response.json()["documents"][0]["status"] == "ingested"
    # What is in the text is the same, whoever could open it.
    again = upload(client, collection, locked)
    assert again.json()["documents"][0]["status"] == "unchanged"

    shown = [client.get("/v1/jobs").text, client.get(f"/v1/documents?collection={collection}").text]
    refused = upload(client, collection, locked, password="k3rosene" + "x" * 1000)
    shown += [is_problem(refused, 422, "/problems/invalid-input")["detail"], refused.text]
    assert not any("k3rosene" in text for text in (*shown, caplog.text))
    failed = [job for job in client.get("/v1/jobs").json()["jobs"] if job["state"] == "failed"]
    retried = client.post(f"/v1/jobs/{failed[0]['job_id']}/retry")
    assert "with its password" in is_problem(retried, 409, "/problems/conflict")["hint"]
