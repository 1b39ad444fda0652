"""Three tenants, random keys and groups, every way in: nobody reads what is not theirs.

Each version of a document holds a word of its own. Whatever an answer says, in whatever field, no
word may stand in it that its caller may not see; and what a caller may see is really found.
`make soak` runs 10,000 steps, the tests 200.
"""

import json
import os
import re
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from rag import access
from rag.orchestrator import Orchestrator
from rag.types import Scope
from services import auth
from services.app import create_app
from tests.services.serving import local_client, with_settings

STEPS_OF_ONE = 50
EXAMPLES = int(os.environ.get("RAG_SOAK_TENANT_STEPS", "200")) // STEPS_OF_ONE
TENANTS = ("ants", "bees", "crabs")
GROUPS = ("hr", "HR", "it")
NAMES = ("shared", "plans")  # every tenant has collections of these names, and one of its own
SUBJECTS = ("harbour", "crane", "tide", "lantern", "pilot")
FIRST = 12  # keys that each run begins with
WORD = re.compile(r"zq[0-9a-f]{12}")

acls = st.lists(st.sampled_from(GROUPS), max_size=2, unique=True)
some = st.sampled_from(range(60))  # picks one of a list; each is as likely


@dataclass
class Document:
    """A document of the model: its latest word, who may see it, whether it is there."""

    tenant: str
    collection: str
    id: str
    word: str
    acl: frozenset[str]
    live: bool = True
    words: set[str] = field(default_factory=set)  # of all its versions


@dataclass
class Key:
    tenant: str
    role: str
    groups: frozenset[str] | None
    collections: frozenset[str] | None
    prefix: str
    headers: dict[str, str]
    revoked: bool = False

    def sees(self, document: Document) -> bool:
        """The model's own words for who may see what."""
        return (
            self.tenant == document.tenant
            and (self.collections is None or document.collection in self.collections)
            and (self.groups is None or not document.acl or bool(self.groups & document.acl))
        )


class Tenancy(RuleBasedStateMachine):
    client = None  # set by the test
    parts = None
    strict = True
    reads: list[tuple[Key, Document]]  # that should not have been

    @initialize()
    def begin(self):
        self.suffix = uuid4().hex[:8]
        self.documents: list[Document] = []
        self.keys: list[Key] = []
        self.traces: list[str] = []
        self.jobs: list[str] = []
        self.admins = {}
        for tenant in TENANTS:
            self.admins[tenant] = self._key(self._named(tenant), "admin", None, None)
            for name in (*NAMES, self._only(tenant)):
                made = self._send(self.admins[tenant], "POST", "/v1/collections", {"name": name})
                self._expect(made.status_code == 201, made)
        for place, tenant in enumerate(TENANTS):  # else most steps would look at nothing
            for groups in (frozenset(), frozenset({"hr"})):
                self._key(self._named(tenant), "read", groups, None)
            self._key(self._named(tenant), "read", None, frozenset({"shared"}))
            for where, acl in ((0, []), (0, ["hr"]), (2 + place, ["it"])):
                self.upload(place, where, SUBJECTS[len(self.documents) % len(SUBJECTS)], acl)

    # Who

    @rule(
        tenant=st.sampled_from(TENANTS),
        role=st.sampled_from(("read", "write", "admin")),
        groups=st.one_of(st.none(), st.frozensets(st.sampled_from(GROUPS))),
        collections=st.one_of(st.none(), st.frozensets(st.sampled_from(NAMES))),
    )
    def make_a_key(self, tenant, role, groups, collections):
        self._key(self._named(tenant), role, groups, collections)

    @rule(pick=some)
    def revoke_a_key(self, pick):
        if len(self.keys) == FIRST:
            return
        key = self.keys[FIRST + pick % (len(self.keys) - FIRST)]  # the first ones stay
        self.parts.keys.revoke(key.prefix)
        key.revoked = True
        assert self._send(key, "GET", "/v1/collections").status_code == 401

    # Documents

    @rule(pick=some, where=some, name=st.sampled_from(SUBJECTS), acl=st.one_of(st.none(), acls))
    def upload(self, pick, where, name, acl):
        key, collection = self._pick(pick), self._collection(where)
        word = f"zq{uuid4().hex[:12]}"
        sent = {
            "id": f"{name}-doc",
            "title": f"The {name} {word}",
            "text": f"The {name} of the harbour is called {word}. It was built in 1811.",
            "metadata": {"note": word} | ({} if acl is None else {"acl": acl}),
            "source": f"notes/{name}/{word}.txt",
        }
        answer = self._send(
            key, "POST", "/v1/documents?wait=true", {"collection": collection, "documents": [sent]}
        )
        known = self._known(key.tenant, collection, sent["id"])
        allowed = (
            key.role != "read"
            and not key.revoked
            and self._reaches(key, collection)
            and (key.groups is None or acl is None or key.groups >= set(acl))
        )
        if acl is None:  # as it was, or the sender's groups'
            acl = known.acl if known is not None and known.live else sorted(key.groups or ())
        if known is not None and known.live and not key.sees(known):
            allowed = False
        self._expect(answer.is_success == allowed, answer)
        if not (allowed and answer.is_success):
            return
        self.jobs.append(answer.json()["job_id"])
        if known is None:
            known = Document(key.tenant, collection, sent["id"], word, frozenset(acl))
            self.documents.append(known)
        known.word, known.acl, known.live = word, frozenset(acl), True
        known.words.add(word)

    @rule(pick=some, which=some, acl=acls)
    def change_who_sees_it(self, pick, which, acl):
        if not self.documents:
            return
        key, named = self._pick(pick), self._document(which)
        answer = self._send(key, "PATCH", self._path(named), {"metadata": {"acl": acl}})
        own = self._own(key, named)
        allowed = self._may_write(key, own) and (key.groups is None or key.groups >= set(acl))
        self._expect(answer.is_success == allowed, answer)
        if answer.is_success and own is not None:
            own.acl = frozenset(acl)

    @rule(pick=some, which=some, prove=st.booleans())
    def delete(self, pick, which, prove):
        if not self.documents:
            return
        key, named = self._pick(pick), self._document(which)
        answer = self._send(key, "DELETE", self._path(named) + "&prove=true" * prove)
        own = self._own(key, named)
        if own is None or own.live or not prove:  # a proof takes also what an earlier delete left
            self._expect(answer.is_success == self._may_write(key, own), answer)
        if answer.is_success and own is not None:
            own.live = False

    @rule(pick=some, where=some)
    def delete_what_a_filter_picks(self, pick, where):
        """Tried only: it names what would go."""
        key, collection = self._pick(pick), self._collection(where)
        path = f"/v1/documents?collection={collection}&dry_run=true"
        everything = json.dumps({"not": {"note": "none"}})
        answer = self._send(key, "DELETE", f"{path}&filter={everything}")
        if answer.is_success:
            gone = set(answer.json()["documents"])
            self._expect(gone == {d.id for d in self._seen(key, collection)}, answer)

    # Reading

    @rule(pick=some, which=some, part=st.sampled_from(("", "/text", "/chunks", "/original")))
    def look_at_a_document(self, pick, which, part):
        if not self.documents:
            return
        key, named = self._pick(pick), self._document(which)
        answer = self._send(key, "GET", self._path(named, part))
        own = self._own(key, named)
        seen = own is not None and own.live and key.sees(own) and not key.revoked
        self._expect(answer.is_success == seen, answer)
        self._expect(not seen or own.word in answer.text, answer)

    @rule(pick=some, where=some)
    def list_documents(self, pick, where):
        key, collection = self._pick(pick), self._collection(where)
        answer = self._send(key, "GET", f"/v1/documents?collection={collection}")
        if answer.is_success:
            listed = {one["id"] for one in answer.json()["documents"]}
            self._expect(listed == {d.id for d in self._seen(key, collection)}, answer)

    @rule(
        pick=some,
        where=some,
        name=st.sampled_from(SUBJECTS),
        mode=st.sampled_from(("hybrid", "dense", "bm25")),
        acl=st.one_of(st.none(), st.sampled_from(GROUPS)),
    )
    def search(self, pick, where, name, mode, acl):
        key, collection = self._pick(pick), self._collection(where)
        body = {"query": f"What is the {name} called?", "collection": collection, "mode": mode}
        if acl is not None:
            body["filter"] = {"acl": acl}  # asking for a group does not make one its member
        answer = self._send(key, "POST", "/v1/search", body)
        if answer.is_success and acl is None and mode != "bm25":
            found = {hit["document_id"] for hit in answer.json()["hits"]}
            # There are fewer than the limit.
            self._expect(found == {d.id for d in self._seen(key, collection)}, answer)

    @rule(pick=some, where=some, name=st.sampled_from(SUBJECTS))
    def ask(self, pick, where, name):
        key, collection = self._pick(pick), self._collection(where)
        body = {"question": f"What is the {name} called?", "collection": collection}
        answer = self._send(key, "POST", "/v1/ask", body)
        if answer.is_success and (trace := answer.json()["trace_id"]):
            self.traces.append(trace)
            again = self._send(key, "GET", f"/v1/traces/{trace}")
            self._expect(again.is_success, again)

    @rule(pick=some, where=some, name=st.sampled_from(SUBJECTS), stream=st.booleans())
    def ask_as_openais_clients_do(self, pick, where, name, stream):
        key, collection = self._pick(pick), self._collection(where)
        turns = [{"role": "user", "content": f"What is the {name} called?"}]
        body = {"model": collection, "messages": turns, "stream": stream}
        self._send(key, "POST", "/v1/chat/completions", body)
        models = self._send(key, "GET", "/v1/models")
        if models.is_success:
            own = {one["id"] for one in models.json()["data"]}
            self._expect(own <= {*NAMES, self._only(self._plain(key.tenant))}, models)

    @rule(pick=some, where=some, name=st.sampled_from(SUBJECTS))
    def score(self, pick, where, name):
        key, collection = self._pick(pick), self._collection(where)
        body = {"input_data": {"input_string": [f"What is the {name} called?"]}}
        self._send(key, "POST", "/score", body | {"collection": collection, "retrieval": True})

    @rule(pick=some, which=some, replay=st.booleans())
    def look_at_a_trace(self, pick, which, replay):
        if not self.traces:
            return
        key, trace = self._pick(pick), self.traces[which % len(self.traces)]
        self._send(key, "GET", f"/v1/traces/{trace}")
        self._send(key, "GET", "/v1/traces")
        if replay:
            self._send(key, "POST", f"/v1/traces/{trace}/replay", {})
        self._send(key, "POST", "/v1/feedback", {"trace_id": trace, "rating": "up"})

    @rule(pick=some, which=some)
    def look_at_a_job(self, pick, which):
        if not self.jobs:
            return
        key, job = self._pick(pick), self.jobs[which % len(self.jobs)]
        self._send(key, "GET", f"/v1/jobs/{job}", jobs=True)
        self._send(key, "GET", f"/v1/jobs/{job}/events", jobs=True)
        self._send(key, "GET", "/v1/jobs", jobs=True)
        self._send(key, "POST", f"/v1/jobs/{job}/cancel", jobs=True)
        self._send(key, "POST", f"/v1/jobs/{job}/retry", jobs=True)

    @rule(
        pick=some,
        where=some,
        name=st.sampled_from(SUBJECTS),
        tool=st.sampled_from(("search", "ask", "get_document", "list_collections", "resource")),
    )
    def be_an_agent(self, pick, where, name, tool):
        key, collection = self._pick(pick), self._collection(where)
        question = f"What is the {name} called?"
        given = {
            "search": {"query": question, "collection": collection},
            "ask": {"question": question, "collection": collection},
            "get_document": {"document_id": f"{name}-doc", "collection": collection},
            "list_collections": {},
        }
        call = {"method": "tools/call", "params": {"name": tool, "arguments": given.get(tool)}}
        if tool == "resource":
            uri = f"ragstone://{collection}/{name}-doc"
            call = {"method": "resources/read", "params": {"uri": uri}}
        body = {"jsonrpc": "2.0", "id": 2, **call}
        accepts = {"Accept": "application/json, text/event-stream"}
        answer = self._send(key, "POST", "/mcp", body, **accepts)
        if answer.is_success and tool == "list_collections":
            named = set(re.findall(r"only-\w+-\w+", answer.text))
            self._expect(named <= {self._only(self._plain(key.tenant))}, answer)

    # What every answer is held against

    def _send(self, key, method, path, body=None, *, jobs=False, **headers):
        answer = self.client.request(method, path, json=body, headers=key.headers | headers)
        self._check(key, answer, jobs=jobs)
        return answer

    def _check(self, key, answer, *, jobs=False):
        self._expect(answer.status_code < 500, answer)
        self._expect(answer.status_code == 401 or not key.revoked, answer)
        for word in set(WORD.findall(answer.text)):
            document = next((d for d in self.documents if word in d.words), None)
            if document is None:
                continue  # of the upload that is being answered
            # A job also shows what was deleted since, under the groups that it was sent for.
            unseen = not key.sees(document) if document.live else not jobs
            if document.tenant != key.tenant or unseen:
                self.reads.append((key, document))
            assert document.tenant == key.tenant, f"{key} reads {document}"
            assert not unseen, f"{key} reads {document}"

    def _expect(self, holds, answer):
        """What the model says; only who reads what counts where a filter was taken away."""
        assert holds or not self.strict, answer.text

    # Helpers

    def _key(self, tenant, role, groups, collections):
        made, text = self.parts.keys.create(
            "k", role, tenant=tenant, groups=groups, collections=collections, per_minute=10**6
        )
        headers = {"Authorization": f"Bearer {text}"}
        key = Key(tenant, role, groups, collections, made.prefix, headers)
        self.keys.append(key)
        return key

    def _named(self, tenant):
        return f"{tenant}-{self.suffix}"

    def _only(self, tenant):
        """The collection whose name no other tenant has."""
        return f"only-{tenant}-{self.suffix}"

    def _plain(self, tenant):
        return tenant.partition("-")[0]

    def _pick(self, number):
        return self.keys[number % len(self.keys)]

    def _document(self, number):
        return self.documents[number % len(self.documents)]

    def _collection(self, number):
        names = (*NAMES, *map(self._only, TENANTS))
        return names[number % len(names)]

    def _reaches(self, key, collection):
        own = collection in (*NAMES, self._only(self._plain(key.tenant)))
        return own and (key.collections is None or collection in key.collections)

    def _known(self, tenant, collection, document_id):
        wanted = (tenant, collection, document_id)
        return next((d for d in self.documents if (d.tenant, d.collection, d.id) == wanted), None)

    def _own(self, key, named):
        """What a key means by a document's name: its own tenant's of that name, if there is one."""
        return self._known(key.tenant, named.collection, named.id)

    def _may_write(self, key, own):
        allowed = own is not None and own.live and key.sees(own)
        return allowed and not key.revoked and key.role != "read"

    def _seen(self, key, collection):
        if not self._reaches(key, collection):
            return []
        return [d for d in self.documents if d.live and d.collection == collection and key.sees(d)]

    def _path(self, document, part=""):
        return f"/v1/documents/{document.id}{part}?collection={document.collection}"


HOW = settings(
    max_examples=max(1, EXAMPLES),
    stateful_step_count=STEPS_OF_ONE,
    deadline=None,
    derandomize="RAG_SOAK_TENANT_STEPS" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@pytest.fixture
def machine(own_parts, monkeypatch):
    """The state machine over a running application, whose answers may come out of the cache."""
    parts = with_settings(own_parts, answer_cache=1000)
    monkeypatch.setattr(auth, "WRONG_KEYS_PER_MINUTE", 10**9)  # revoked ones are tried a lot
    parts.keys.create("first", "operator")  # closed from now on
    with local_client(create_app(orchestrator=Orchestrator(parts, Scope("nobody")))) as client:
        client.headers["Connection"] = "close"

        class Machine(Tenancy):
            pass

        Machine.client, Machine.parts, Machine.reads = client, parts, []
        yield Machine


def test_nobody_reads_what_is_not_theirs(machine):
    run_state_machine_as_test(machine, settings=HOW)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("tenant_rows", lambda _: sa.true()),
        ("document_rows", lambda _, __: sa.true()),
        ("collection_rows", lambda scope: access.tenant_rows(scope)),
    ],
)
def test_the_proof_notices_what_it_is_about(machine, monkeypatch, name, instead):
    """Without the filter somebody reads what is not theirs, and the machine says so."""
    monkeypatch.setattr(access, name, instead)
    machine.strict = False
    once = settings(HOW, max_examples=20, phases=[Phase.generate], verbosity=Verbosity.quiet)
    with pytest.raises((AssertionError, HypothesisException)) as noticed:
        run_state_machine_as_test(machine, settings=once)
    assert machine.reads, repr(noticed.value)[:3000]
