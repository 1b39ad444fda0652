"""Settings: environment (`RAG_...`), then `ragstone.toml` in the working folder, then defaults.

Read once, validated whole: every wrong value is named in one error. Nothing below reads the
environment again; what a function needs is passed to it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from rag.errors import InvalidInput
from rag.models.cache import default_cache

ProfileName = Literal["default", "starter", "gpu"]
FusionName = Literal["dbsf", "rrf", "weighted"]
CitationPolicy = Literal["mark", "drop", "abstain"]

LATE_INTERACTION = "late-interaction"
QUOTE = "quote"
NO_RERANKER = "none"
_SERVED = r"^((tei|openai)\+https?://\S+)?$"


@dataclass(frozen=True, slots=True)
class Profile:
    """The three models that run together: ids, or the names of the ones that need no weights."""

    embedder: str
    reranker: str
    generator: str


PROFILES: dict[ProfileName, Profile] = {
    "default": Profile("BAAI/bge-small-en", "BAAI/bge-reranker-base", "Qwen/Qwen2.5-0.5B-Instruct"),
    "starter": Profile("sentence-transformers/all-MiniLM-L6-v2", LATE_INTERACTION, QUOTE),
    "gpu": Profile("BAAI/bge-small-en", "BAAI/bge-reranker-large", "Qwen/Qwen2.5-7B-Instruct"),
}


class Settings(BaseSettings):
    """Every setting, its default and its bounds. `RAG_CHUNK_TOKENS=200` sets `chunk_tokens`."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_", toml_file="ragstone.toml", extra="ignore", frozen=True
    )

    # Where things are kept.
    data: Path = Path("ragstone-data")
    database_url: SecretStr | None = None  # default: SQLite in the data folder
    objects_url: str = ""  # s3://bucket/folder; default: a folder in the data folder
    objects_options: dict[str, Any] = Field(default_factory=dict)  # for fsspec, as JSON
    open_collections: int = Field(256, ge=1, le=1500)  # at once, by Qdrant Edge
    qdrant_url: str | None = None  # default: Qdrant Edge in the process
    qdrant_api_key: SecretStr | None = None
    qdrant_grpc: bool = False
    qdrant_grpc_port: int = Field(6334, ge=1, le=65535)
    qdrant_timeout: float = Field(10.0, gt=0, le=600)  # seconds
    qdrant_ca_file: Path | None = None  # a private certificate authority for https
    min_free_bytes: int = Field(256 * 2**20, ge=0)  # stop writing before the disk is full

    # Models.
    profile: ProfileName = "default"
    embedder: str = ""  # empty: the profile's
    reranker: str = ""
    generator: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, le=1024)  # CPU threads of a model, 0: all cores
    engine: Literal["auto", "openvino", "torch"] = "auto"  # auto: OpenVINO on a CPU, torch on a GPU
    embedder_precision: Literal["auto", "f32", "bf16", "int8"] = "auto"  # on a CPU
    reranker_precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    generator_precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    cache: Path = Field(default_factory=default_cache)  # converted models: ~/.cache/ragstone
    kv_cache_mb: int = Field(512, ge=1, le=1_048_576)  # a generator's keys and values, on a CPU
    generations_waiting: int = Field(32, ge=1)  # requests that wait for it; more get 429
    generator_patience_ms: int = Field(250, ge=0, le=60_000)  # on a CPU: let questions go first
    model_queue: int = Field(256, ge=1)  # requests that wait for one model; more get 429
    embedders_kept: int = Field(2, ge=1, le=64)  # in memory beside the configured one
    ingest_batch_ms: int = Field(50, ge=1, le=10_000)  # a batch of ingestion while questions come

    # What a converted model must agree on with torch to be used.
    parity_cosine: float = Field(0.999, ge=0, le=1)  # smallest cosine of a text's two vectors
    parity_cosine_int8: float = Field(0.99, ge=0, le=1)
    parity_rank: float = Field(0.9, ge=-1, le=1)  # Kendall's tau between two orders of passages
    parity_logit: float = Field(0.1, ge=0)  # mean distance in standard deviations, not for int8
    parity_lm_tokens: float = Field(0.9, ge=0, le=1)  # share of an LM's tokens that are torch's

    # Models on other servers: tei+http://host:port, openai+https://host/v1; empty: in the process.
    embedder_url: str = Field("", pattern=_SERVED)
    reranker_url: str = Field("", pattern=_SERVED)
    generator_url: str = Field("", pattern=_SERVED)
    embedder_api_key: SecretStr = SecretStr("")
    reranker_api_key: SecretStr = SecretStr("")
    generator_api_key: SecretStr = SecretStr("")
    generator_dialect: Literal["openai", "vllm", "llama.cpp"] = "openai"
    generator_context_window: int = Field(0, ge=0)  # tokens, 0: what the server says
    remote_connect_timeout: float = Field(5.0, gt=0, le=60)  # seconds
    remote_read_timeout: float = Field(60.0, gt=0, le=3600)  # the longest silence
    remote_total_timeout: float = Field(600.0, gt=0, le=86_400)  # with all retries
    remote_retries: int = Field(2, ge=0, le=10)  # after the first attempt
    remote_retry_wait: float = Field(20.0, ge=0, le=600)  # the longest pause before one
    remote_breaker_failures: int = Field(5, ge=1, le=1000)  # in a row, then the server is let be
    remote_breaker_seconds: float = Field(30.0, gt=0, le=3600)  # for so long

    # Ingest.
    chunk_tokens: int = Field(256, ge=32, le=8192)
    chunk_overlap: int = Field(32, ge=0, le=1024)
    embed_batch: int = Field(64, ge=1, le=4096)
    max_file_bytes: int = Field(200 * 2**20, ge=1)
    max_text_chars: int = Field(10_000_000, ge=1)
    max_documents: int = Field(1000, ge=1)  # in one request
    max_metadata_bytes: int = Field(16_384, ge=0)
    fetch_documents: int = Field(20, ge=0, le=1000)  # by URL in one request, 0: none at all
    fetch_seconds: float = Field(60.0, gt=0, le=3600)  # for all of a request's URLs
    fetch_redirects: int = Field(5, ge=0, le=20)
    fetch_private: bool = False  # also from private, loopback and link-local addresses
    max_listed: int = Field(5000, ge=1)  # documents that a filter is tried on for one page
    parse_processes: int = Field(2, ge=1, le=256)  # files are parsed in as many child processes
    parse_reuse: int = Field(100, ge=1)  # files that each of them parses, then a new one takes over
    parse_memory_mb: int = Field(1024, ge=256, le=1_048_576)  # address space of each
    parse_cpu_seconds: int = Field(120, ge=1, le=86_400)  # for one file
    parse_wall_seconds: float = Field(300.0, gt=0, le=86_400)
    parse_output_mb: int = Field(64, ge=1, le=4096)  # one file's text and headings
    max_attachments: int = Field(100, ge=0, le=10_000)  # of one mail that become documents
    max_attachment_bytes: int = Field(64 * 2**20, ge=1, le=2**31)  # of one mail, together
    max_attachment_depth: int = Field(3, ge=0, le=10)  # mails within mails
    ocr: Literal["auto", "off"] = "auto"  # read pictures of text where the extra `ocr` is installed
    ocr_languages: str = Field("eng", pattern=r"^\w+(\+\w+)*$")  # Tesseract's names: eng+deu
    ocr_data: str = ""  # the folder of their .traineddata; default: the usual ones
    ingest_queue: int = Field(1000, ge=1)  # accepted uploads that are not done; more get 429
    ingest_threads: int = Field(8, ge=1, le=64)  # documents that a process works on at once
    ingest_beside_questions: int = Field(1, ge=1, le=64)  # the same while questions come
    ingest_text_mb: int = Field(32, ge=1, le=65_536)  # their text together; a larger one goes alone
    ingest_per_collection: int = Field(0, ge=0)  # all processes together, of one; 0: no limit
    ingest_retries: int = Field(20, ge=0)  # when the store, the disk or a model server fails
    ingest_retry_seconds: float = Field(60.0, ge=0)  # the longest pause before one
    ingest_orphan_hours: float = Field(24.0, gt=0)  # then what a dead process began is purged
    jobs_kept_days: float = Field(7.0, gt=0)  # ended jobs, and the bytes to try failed ones again
    compare_queries: int = Field(100, ge=1, le=10_000)  # made of a collection, before a migration
    backup_lease_seconds: float = Field(300.0, ge=1, le=86_400)  # longest standstill of a backup

    # Ask.
    fusion: FusionName = "dbsf"
    retrieve_limit: int = Field(50, ge=1, le=1000)
    rerank_limit: int = Field(20, ge=1, le=200)
    rerank_blend: float = Field(0.5, ge=0, le=1)  # weight of late interaction in its blend
    rerank_budget_ms: int = Field(0, ge=0, le=60_000)  # fewer candidates when slower, 0: all
    rerank_cache: int = Field(20_000, ge=0, le=10_000_000)  # scores kept, 150 bytes each
    least_relevance: float = Field(0.01, ge=0, le=1)  # of the best passage, else no answer
    context_tokens: int = Field(1500, ge=64, le=1_000_000)
    quote_sentences: int = Field(3, ge=1, le=20)
    citation_policy: CitationPolicy = "mark"  # what becomes of sentences that nothing supports
    max_question_chars: int = Field(8000, ge=1)
    max_history: int = Field(1000, ge=0)  # messages
    history_tokens: int = Field(1000, ge=0, le=1_000_000)  # of its latest messages, which are read
    max_limit: int = Field(100, ge=1, le=1000)  # hits in one search
    default_new_tokens: int = Field(256, ge=1)
    max_new_tokens: int = Field(2048, ge=1)
    max_answers: int = Field(16, ge=1)  # questions answered at once
    answers_waiting: int = Field(32, ge=0)  # questions that wait for their turn; more get 429
    jobs_followed: int = Field(32, ge=1)  # event streams of jobs of one caller; more get 429

    # Answers that are given again to the same question of the same documents.
    answer_cache: int = Field(0, ge=0, le=1_000_000)  # kept in memory, 0: none
    answer_cache_near: float = Field(0.93, ge=0, le=2)  # cosine of near questions, above 1: none

    # Traces of answers.
    traces_kept_days: float = Field(30.0, ge=0)  # 0: none are kept
    feedback_kept_days: float = Field(365.0, ge=0)  # those that have feedback

    # Serve.
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    tls_certificate: Path | None = None  # PEM, with the chain
    tls_key: Path | None = None
    tls_key_password: SecretStr | None = None
    forwarded_allow_ips: str = "127.0.0.1"  # proxies whose X-Forwarded-For is believed
    grace_seconds: int = Field(30, ge=0, le=3600)  # what runs may end within when it is stopped
    cors_origins: tuple[str, ...] = ()  # of pages that may ask: https://app.example.org
    tenant: str = Field("default", min_length=1, max_length=200)  # of commands, and without keys

    # Who may ask. With keys (`rag keys create`) every request needs one.
    allow_open: bool = False  # without keys, listen on addresses that others reach
    requests_per_minute: int = Field(600, ge=0)  # of one key, 0: any number
    audit_kept_days: float = Field(365.0, gt=0)
    oidc_issuer: str = ""  # an identity provider whose tokens are taken as well
    oidc_audience: str = ""
    oidc_jwks_url: str = ""  # default: what the issuer's discovery document names
    oidc_tenant_claim: str = "tenant"
    oidc_groups_claim: str = "groups"
    oidc_role_claim: str = "role"  # read, write or admin; without it read
    warm_up: bool = True  # load the models at start, not at the first question
    log_format: Literal["text", "json"] = "text"  # json: an object a line
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # of a service
    otel: bool | Literal["auto"] = "auto"  # export spans; auto: where OTEL_EXPORTER_OTLP_... says
    api_key: SecretStr = SecretStr("")  # what commands show to a server that asks for one
    client_patience: float = Field(
        60.0, ge=0
    )  # seconds that a command waits for a server gone away

    @field_validator("chunk_overlap")
    @classmethod
    def _overlap_is_smaller(cls, overlap: int, info: Any) -> int:  # noqa: ANN401 - pydantic's type
        if overlap * 2 > info.data.get("chunk_tokens", overlap * 2):
            raise ValueError("must be at most half of chunk_tokens")
        return overlap

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("oidc_issuer needs oidc_audience: else any of its tokens would do")
        return self

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> Self:
        if self.default_new_tokens > self.max_new_tokens:
            raise ValueError("default_new_tokens must not exceed max_new_tokens")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings calls
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - this by name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def models(self) -> Profile:
        """The profile's models with the ones that were set by name in their place."""
        profile = PROFILES[self.profile]
        return Profile(
            self.embedder or profile.embedder,
            self.reranker or profile.reranker,
            self.generator or profile.generator,
        )

    @property
    def catalog_url(self) -> str:
        """The SQLAlchemy URL of the catalog."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data / 'catalog.sqlite'}"


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; `overrides` that are None count as not given.

    Raises InvalidInput naming every wrong value at once.
    """
    given: dict[str, Any] = {k: v for k, v in overrides.items() if v is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
        )
        raise InvalidInput(
            f"Wrong settings: {wrong}.",
            hint="Set them as RAG_<NAME> in the environment or in ragstone.toml.",
        ) from None
