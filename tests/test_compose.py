"""The container files against the code that they run. No container engine is needed."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf8").replace("\\\n", " ")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STORES = {name: service for name, service in SERVICES.items() if "build" not in service}

_LINE = re.compile(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
_EXAMPLE = _LINE.findall((ROOT / ".env.example").read_text("utf8"))
ACTIVE = {name: value for commented, name, value in _EXAMPLE if not commented}
SHOWN = {name: value for commented, name, value in _EXAMPLE if commented}
# For a Qdrant of one's own, a server that speaks TLS itself, and commands that ask a server: the
# compose file uses none of them.
ELSEWHERE = {
    "RAG_QDRANT_API_KEY",
    "RAG_QDRANT_CA_FILE",
    "RAG_TLS_CERTIFICATE",
    "RAG_TLS_KEY",
    "RAG_TLS_KEY_PASSWORD",
}

each_of_ours = pytest.mark.parametrize("name", OURS)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for field in Settings.model_fields:
        monkeypatch.delenv(f"RAG_{field.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)  # no ragstone.toml


def interpolated(text: object) -> str:
    """What Compose makes of a value with `.env.example` as `.env`."""
    return _VARIABLE.sub(lambda found: ACTIVE[found[1]], str(text))


def environment(name: str) -> dict[str, str]:
    """The RAG_ variables in a container: `environment` wins over `env_file`."""
    given = ACTIVE | {key: interpolated(value) for key, value in OURS[name]["environment"].items()}
    return {key: value for key, value in given.items() if key.startswith("RAG_")}


def settings(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    return Settings()


def health_url(name: str) -> re.Match[str]:
    found = re.search(
        r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(OURS[name]["healthcheck"]["test"])
    )
    assert found
    return found


def module(name: str) -> str:
    python, option, found = OURS[name]["command"]
    assert (python, option) == ("python", "-m")
    return found


def test_the_services_are_these():
    assert set(OURS) == {"chat", "ingestion", "chat-gpu", "ingestion-gpu"}
    assert set(STORES) == {"qdrant", "postgres"}


def test_every_rag_variable_is_a_setting():
    known = {f"RAG_{field.upper()}" for field in Settings.model_fields}
    used = {key for key in ACTIVE | SHOWN if key.startswith("RAG_")}
    used |= set(re.findall(r"\bRAG_[A-Z0-9_]+", str(COMPOSE) + DOCKERFILE))
    assert used <= known
    assert known - used == ELSEWHERE, "explain a new setting in .env.example"


@each_of_ours
def test_the_environment_of_a_service_validates(name: str, monkeypatch: pytest.MonkeyPatch):
    found = settings(environment(name), monkeypatch)
    assert found.catalog_url.startswith("postgresql+psycopg://ragstone:")
    assert found.qdrant_url == "http://qdrant:6333"
    assert found.data == Path("/data")
    assert found.profile == ("gpu" if name.endswith("-gpu") else "starter")


def test_the_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch):
    shown = {key: value for key, value in SHOWN.items() if key.startswith("RAG_")}
    assert settings(shown, monkeypatch).model_dump() == Settings.model_construct().model_dump()


def test_every_variable_of_the_compose_file_is_in_the_example():
    used = {name: default for name, kind, default in _VARIABLE.findall(str(COMPOSE)) if kind == "-"}
    assert used
    assert used == {name: ACTIVE.get(name) for name in used}, "fallbacks agree with the example"
    assert {found[0] for found in _VARIABLE.findall(str(COMPOSE))} <= set(ACTIVE)


def test_the_profile_of_the_example_exists():
    assert {ACTIVE["COMPOSE_PROFILES"]} < {p for one in OURS.values() for p in one["profiles"]}


@each_of_ours
def test_its_module_and_health_route_exist(name: str):
    assert find_spec(module(name))
    app = import_module(module(name)).create_app(Settings())
    assert health_url(name)[2] in app.openapi()["paths"]


def test_the_command_of_the_image_exists():
    found = re.search(r'^CMD \["python", "-m", "([\w.]+)"\]$', DOCKERFILE, re.MULTILINE)
    assert found
    assert find_spec(found[1])


@each_of_ours
def test_it_listens_where_it_is_asked(name: str):
    port = environment(name)["RAG_PORT"]
    assert health_url(name)[1] == port
    assert environment(name)["RAG_HOST"] == "0.0.0.0"
    (published,) = map(interpolated, OURS[name]["ports"])
    assert re.fullmatch(rf"127\.0\.0\.1:\d+:{port}", published)


@pytest.mark.parametrize("name", SERVICES)
def test_it_is_hardened(name: str):
    service = SERVICES[name]
    assert service["user"].partition(":")[0] not in ("", "root", "0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    assert "privileged" not in service


@pytest.mark.parametrize("name", STORES)
def test_stores_are_pinned_and_reached_by_services_only(name: str):
    assert re.search(r":v?\d+\.\d+", STORES[name]["image"])
    assert "ports" not in STORES[name]
    assert STORES[name]["networks"] == ["stores"]
    assert COMPOSE["networks"]["stores"]["internal"] is True


def test_volumes_are_declared_and_used():
    used = {mount.split(":")[0] for one in SERVICES.values() for mount in one["volumes"]}
    assert used == set(COMPOSE["volumes"])


@each_of_ours
def test_it_shares_its_volumes_and_waits_for_healthy_stores(name: str):
    assert OURS[name]["volumes"] == ["originals:/data", "models:/models"]
    assert OURS[name]["environment"]["HF_HOME"] == "/models"
    assert set(OURS[name]["depends_on"]) == set(STORES)
    for needed, how in OURS[name]["depends_on"].items():
        assert how == {"condition": "service_healthy"}
        assert SERVICES[needed]["healthcheck"]["test"]


@each_of_ours
def test_its_target_and_device(name: str):
    gpu = name.endswith("-gpu")
    target = OURS[name]["build"]["target"]
    assert target == ("gpu" if gpu else "cpu")
    assert OURS[name]["image"] == f"ragstone:{target}"
    assert OURS[name]["profiles"] == [target]
    assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)
    assert ("deploy" in OURS[name]) == gpu
    if gpu:
        (device,) = OURS[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]


def test_what_the_image_copies_exists_and_is_sent_to_the_build():
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in lines for source in line.split()[:-1]}
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf8"), re.MULTILINE))
    assert sources == sent
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_stages_that_are_copied_from_exist():
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= stages
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert bases - stages == {"python:3.11-slim"}


def test_the_image_runs_as_the_user_of_the_services():
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert {service["user"] for service in OURS.values()} == {"10001:10001"}
    assert "--uid 10001" in DOCKERFILE
