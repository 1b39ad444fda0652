"""`/metrics` of a running server after real traffic, and who asks it: dashboard and alerts."""

import json
import re
import socket
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as families
from promql_parser import MatchOp, VectorSelector

import services
from rag.database import Database
from rag.errors import StoreUnreachable
from rag.models.batching import BatchStats
from services import chat, ingestion
from services import metrics as measured
from tests import tiny_models
from tests.services.serving import (
    BELL_ROCK,
    FASTNET,
    running,
    server,
    serving,
    with_models,
    with_settings,
)

SHIPPED = Path(services.__file__).parent / "observability"
DASHBOARD = json.loads((SHIPPED / "grafana.json").read_text("utf8"))
RULES = [
    rule
    for group in yaml.safe_load((SHIPPED / "alerts.yml").read_text("utf8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPED = {"job", "instance"}  # Prometheus gives these labels to whatever it scrapes
ITS_OWN = {"up"}  # and this series
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}  # Grafana's


@pytest.fixture(scope="module")
def api(lighthouse):
    """A real server that has ingested, searched, answered and refused."""
    with server(lighthouse) as http:
        asked = {"question": "How far was the lighthouse moved?", "collection": "lighthouse"}
        assert http.post("/v1/ask", json=asked).is_success
        with http.stream("POST", "/v1/ask", json={**asked, "stream": True}) as response:
            assert "event: done" in "".join(response.iter_text())
        searched = {"query": "moved inland", "collection": "lighthouse"}
        assert http.post("/v1/search", json=searched).is_success
        assert http.get("/v1/jobs/of-nobody").status_code == 404
        assert http.get("/no/such/path?secret=1").status_code == 404
        yield http


@pytest.fixture(scope="module")
def scraped(api) -> dict[str, Metric]:
    """Every family, by its name."""
    return {family.name: family for family in families(api.get("/metrics").text)}


@pytest.fixture(scope="module")
def exposed(scraped):
    """series -> label -> its values"""
    found = defaultdict(lambda: defaultdict(set))
    for family in scraped.values():
        for sample in family.samples:
            assert found[sample.name] is not None  # it is there, also without labels
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
    return found


def value(http, name, **labels):
    for family in families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def expressions():
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, stands_for in VARIABLES.items():
                expression = expression.replace(variable, stands_for)
            yield pytest.param(expression, id=f"{panel['title']} {target['refId']}")
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])


def selectors(expression):
    """Every series that an expression reads."""
    found = []

    def look(node):
        if isinstance(node, VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), look)
    return found


def grouped_by(expression):
    """Every label that an expression groups or matches by."""
    found = set()

    def look(node):
        modifier = getattr(node, "modifier", None)
        matching = getattr(modifier, "matching", None)
        found.update(getattr(modifier, "labels", None) or getattr(matching, "labels", None) or ())

    promql_parser.walk(promql_parser.parse(expression), look)
    return found


@pytest.mark.parametrize("expression", list(expressions()))
def test_what_is_asked_for_is_there(expression, exposed):
    read = selectors(expression)
    assert read
    for selector in read:
        if selector.name in ITS_OWN:
            continue
        assert selector.name in exposed, f"nothing exports {selector.name}"
        labels = exposed[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name in SCRAPED:
                continue
            assert matcher.name in labels, f"{selector.name} has no label {matcher.name}"
            if matcher.name == "status":
                continue  # which ones there are depends on what was asked
            if matcher.op is MatchOp.Equal:
                assert matcher.value in labels[matcher.name]
            elif matcher.op is MatchOp.Re:  # each of its alternatives is a value
                assert set(matcher.value.split("|")) <= labels[matcher.name]
    known = set(SCRAPED).union(*(exposed[one.name] for one in read if one.name not in ITS_OWN))
    assert grouped_by(expression) <= known


def test_a_misspelt_name_or_label_would_be_found(exposed):
    """The test above, on what it is there to find."""
    for expression in (
        "rate(ragstone_answers_totals[5m])",
        'rate(ragstone_answers_total{result="failed"}[5m])',
        'rate(ragstone_answers_total{outcome="failing"}[5m])',
        "sum by (outcomes) (rate(ragstone_answers_total[5m]))",
    ):
        with pytest.raises(AssertionError):
            test_what_is_asked_for_is_there(expression, exposed)


def test_a_legend_names_labels_that_are_left():
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            expression = target["expr"].replace("$__rate_interval", "5m")
            assert named <= grouped_by(expression), panel["title"]


def test_every_family_of_ours_is_explained_and_named_as_prometheus_wants_it(scraped):
    ours = {name: family for name, family in scraped.items() if name.startswith("ragstone_")}
    assert len(ours) > 30
    for name, family in ours.items():
        assert family.documentation.endswith("."), f"{name} says nothing of itself"
        assert re.fullmatch(r"[a-z_]+", name)
        assert "_ms" not in name, "seconds are the unit"
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_no_label_has_a_value_that_users_choose(exposed):
    bounded = {"stage", "outcome", "support", "kind", "result", "pool", "model", "state", "le"}
    bounded |= {"method", "route", "status", "version"}
    labels = {name for series in exposed.values() for name in series}
    assert labels == bounded
    routes = exposed["ragstone_http_requests_total"]["route"]
    assert {"/v1/ask", "/v1/search", "/v1/jobs/{job_id}", "other"} <= routes
    everything = str({k: dict(v) for k, v in exposed.items()})
    assert "lighthouse" not in everything
    assert "of-nobody" not in everything
    assert "secret" not in everything


def test_panels_and_rules_are_explained():
    assert len(PANELS) >= 20
    assert all(panel["title"] and panel["description"] for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_prometheus_chooses_the_format(api):
    plain = api.get("/metrics", headers={"Accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = api.get("/metrics", headers=accepted)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_traffic_is_counted(own_parts):
    with serving(own_parts) as client:

        def count(method, route, status):
            labels = {"method": method, "route": route, "status": str(status)}
            return value(client, "ragstone_http_requests_total", **labels)

        documents = [{"id": "bell/rock", "text": BELL_ROCK}, {"id": "fastnet", "text": FASTNET}]
        for _ in range(2):
            sent = client.post("/v1/documents?wait=true", json={"documents": documents})
            assert sent.status_code == 200
        assert client.get("/v1/documents/bell%2Frock/text").is_success
        assert client.get("/v1/documents/nothing/text").status_code == 404
        assert client.request("BREW", "/v1/ask").status_code == 405
        assert count("POST", "/v1/documents", 200) == 2
        assert count("GET", "/v1/documents/{document_id}/text", 200) == 1
        assert count("GET", "/v1/documents/{document_id}/text", 404) == 1
        assert count("other", "/v1/ask", 405) == 1
        assert value(client, "ragstone_ingest_documents_total", outcome="ingested") == 2
        assert value(client, "ragstone_ingest_documents_total", outcome="unchanged") == 2
        assert value(client, "ragstone_ingest_tasks", state="done") == 4
        assert value(client, "ragstone_ingest_tasks", state="queued") == 0


def test_tokens_of_a_language_model_are_counted(lm_client, lm_parts, lighthouses):
    before = value(lm_client, "ragstone_tokens_total", kind="completion")
    asked = {"question": "Who built Bell Rock?", "collection": lighthouses, "max_new_tokens": 5}
    answer = lm_client.post("/v1/ask", json=asked).json()
    assert answer["usage"]["completion_tokens"] == 5
    plain = {"model": "plain", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    assert lm_client.post("/v1/chat/completions", json=plain).is_success
    assert value(lm_client, "ragstone_tokens_total", kind="completion") == before + 5 + 3
    history = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Sea"}]
    follow_up = lm_client.post("/v1/ask", json=asked | {"history": history}).json()
    known = before + 5 + 3 + follow_up["usage"]["completion_tokens"]
    rewriting = value(lm_client, "ragstone_tokens_total", kind="completion") - known
    assert 0 < rewriting <= 96
    assert lm_parts.generator.model.load == (0, 0)


def test_the_queue_of_each_model_is_shown_by_its_own_numbers():
    """Two batches of a queue that holds 100 tokens: 2 rows of 3 and 5 tokens, 1 row of 7."""
    stats = BatchStats(
        batches=2, rows=3, tokens=15, padded_tokens=17, dropped=4, waiting=5,
        wait_seconds=0.5, busy_seconds=0.25, batch_tokens=100,
    )  # fmt: skip
    shown = measured.queue_metrics({"reranker": stats})
    found = {one.name: one.value for family in shown for one in family.samples}
    assert found == {
        "ragstone_model_waiting": 5,
        "ragstone_model_batch_tokens_limit": 100,
        "ragstone_model_wait_seconds_count": 3,
        "ragstone_model_wait_seconds_sum": 0.5,
        "ragstone_model_batch_seconds_count": 2,
        "ragstone_model_batch_seconds_sum": 0.25,
        "ragstone_model_batch_rows_count": 2,
        "ragstone_model_batch_rows_sum": 3,
        "ragstone_model_batch_tokens_count": 2,
        "ragstone_model_batch_tokens_sum": 17,
        "ragstone_model_padding_tokens_total": 2,
        "ragstone_model_dropped_rows_total": 4,
    }


def test_a_cross_encoder_has_a_queue_and_a_cache(parts, lighthouses, tmp_path):
    folder = tiny_models.reranker(tmp_path / "tiny")
    own = with_models(parts, reranker=str(folder), engine="torch")
    with serving(own) as client, closing(own.reranker.model):
        body = {"query": "Who built Bell Rock?", "collection": lighthouses}
        for _ in range(2):
            assert client.post("/v1/search", json=body).is_success
        # Two documents of a chunk each, read by the first search and known to the second.
        assert value(client, "ragstone_model_batch_rows_sum", model="reranker") == 2
        assert value(client, "ragstone_rerank_cache_lookups_total", result="miss") == 2
        assert value(client, "ragstone_rerank_cache_lookups_total", result="hit") == 2


def test_what_does_not_fit_is_counted_as_429(parts, collection):
    with serving(with_settings(parts, max_answers=1, answers_waiting=0)) as client:
        answers = client.app.state.service.answers
        answers.enter()
        try:
            asked = {"question": "Who?", "collection": collection}
            assert client.post("/v1/ask", json=asked).status_code == 429
        finally:
            answers.leave()
        labels = {"method": "POST", "route": "/v1/ask", "status": "429"}
        assert value(client, "ragstone_http_requests_total", **labels) == 1
        assert value(client, "ragstone_pool_limit", pool="answers") == 1


@pytest.mark.parametrize("create", [chat.create_app, ingestion.create_app])
def test_each_service_has_it_and_two_do_not_clash(lighthouse, create):
    with (
        running(create(orchestrator=lighthouse)) as one,
        running(create(orchestrator=lighthouse)) as other,
    ):
        for http in (one, other):
            assert value(http, "ragstone_catalog_up") == 1
        assert "/metrics" not in one.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("error", [StoreUnreachable("It is away."), ValueError("a bug")])
def test_it_answers_while_the_catalog_does_not(parts, monkeypatch, error):
    def gone():
        raise error

    with serving(with_settings(parts)) as client:
        monkeypatch.setattr(parts.journal, "states", gone)
        assert value(client, "ragstone_catalog_up") == 0
        assert value(client, "ragstone_ingest_tasks", state="queued") is None
        assert value(client, "ragstone_disk_free_bytes") > 0


def test_it_does_not_wait_for_a_database_that_takes_the_call_and_says_nothing(monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setattr(measured, "CATALOG_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql+psycopg://ragstone:x@127.0.0.1:{port}/ragstone"
        calls = []

        def ask():
            calls.append(threading.current_thread())
            return Database.open(url).revision()

        asked = measured.Asked(ask)
        for _ in range(3):
            up, tasks = measured.task_metrics(asked)
            assert up.samples[0].value == 0
            assert tasks.samples == []
        assert len(calls) == 1, "one question at a time, however often it is scraped"
    silent.close()
    calls[0].join(30)
    assert not calls[0].is_alive()
