"""Settings: read once at start from ``NEARLINE_*`` variables into a frozen object; parts get single values."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nearline.errors import Misconfigured
from nearline.seen import SeenPolicy, parse_seen_policy
from nearline.space import Space
from nearline.tls import Brokers, Tls, tls_of
from nearline.topics import PARTITIONS

PREFIX = "NEARLINE_"
Port = Annotated[int, Field(ge=1, le=65_535)]


class Settings(BaseSettings):
    """Every setting of every part, with its default for one machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    kafka: str = Field("127.0.0.1:9092", description="bootstrap servers of Kafka, comma separated")
    triton: str = Field("127.0.0.1:8001", description="host:port of Triton's gRPC endpoint")
    store: str = Field("", description="couchbase://user:password@host/bucket or lmdb:///folder; default: lmdb in data")
    retrieval: str = Field("http://127.0.0.1:8080", description="base URL of the retrieval service, for the CLI")
    ingest: str = Field("http://127.0.0.1:8088", description="base URL of the ingest service, for the CLI")
    data: Path = Field(Path(".nearline"), description="folder of all data on this machine")

    auth: Literal["keys", "off"] = Field(
        "keys", description="keys: HTTP callers need a key; off: any caller may do anything"
    )
    key: SecretStr = Field(
        SecretStr(""), description="the key that the command line presents; default: the file `key` in the data folder"
    )
    open_to: str = Field(
        "127.0.0.0/8, ::1",
        description="networks whose callers may read /metrics and the API's documentation without a key",
    )
    trusted_proxies: str = Field(
        "", description="addresses or networks of proxies whose X-Forwarded-For is believed, comma separated"
    )
    cors_origins: str = Field("", description="origins whose pages may call, comma separated; * for all")

    kafka_tls: bool = Field(False, description="speak TLS to Kafka; a file below implies it")
    kafka_ca: Path | None = Field(None, description="PEM file of the CA of Kafka's certificates; default: the system's")
    kafka_certificate: Path | None = Field(None, description="PEM file of our own certificate for Kafka")
    kafka_private_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    kafka_user: str = Field("", description="user for SASL; empty: no SASL")
    kafka_password: SecretStr = Field(SecretStr(""), description="that user's password")
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism of that user"
    )
    triton_tls: bool = Field(False, description="speak TLS to Triton; a file below implies it")
    triton_ca: Path | None = Field(
        None, description="PEM file of the CA of Triton's certificate; default: the system's"
    )
    triton_certificate: Path | None = Field(None, description="PEM file of our own certificate for Triton")
    triton_private_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    store_ca: Path | None = Field(
        None, description="PEM file of the CA of Couchbase's certificates; the store's URL begins with couchbases://"
    )
    store_certificate: Path | None = Field(None, description="PEM file of our own certificate for Couchbase")
    store_private_key: Path | None = Field(None, description="PEM file of that certificate's private key")

    index: str = Field(
        "hnsw://", description="hnsw:// (in this process) or milvus://[user:password@]host:19530[/database]"
    )
    index_timeout_ms: int = Field(500, gt=0, description="deadline of one search in a remote index")
    search: Literal["on", "off"] = Field(
        "on", description="off: no GET /search; saves 600 bytes of memory per item in this process"
    )
    active_users: int = Field(
        50_000,
        ge=0,
        le=1_000_000,
        description="how many recently active users' vectors retrieval keeps in memory; 0: none",
    )
    session_timeout_ms: int = Field(100, gt=0, description="deadline of one Triton request for anonymous sessions")
    snapshots: str | None = Field(
        None, description="folder of the index's snapshots, empty for none; default: in the data folder"
    )
    recall_every_s: float = Field(
        1.0,
        gt=0,
        description="interval of queries that are also answered exactly, for live recall; 3 ms each at 100,000 x 64",
    )
    snapshot_every_s: float = Field(300, gt=0, description="interval of snapshots of a changed index")

    partitions: int = Field(
        PARTITIONS,
        ge=1,
        le=1_000,
        description="partitions of the topics of users and items; chosen once, when `nearline init` creates them",
    )
    space: int = Field(1, ge=1, description="the embedding space that is served")
    dimension: int = Field(64, ge=1, le=4096, description="dimensions of that space")
    history_length: int = Field(
        50, ge=1, le=500, description="events kept for each user; at least as many as the towers read"
    )
    tokenizer: Path | None = Field(
        None, description="tokenizer.json of the text encoder, if the towers were trained with one"
    )
    seen: str = Field(
        "", description="how long an event makes its item seen, such as view=30d, skip=never; types left out: forever"
    )
    history_ttl_days: float = Field(400, gt=0, description="data of a user idle for longer is deleted")
    popularity_half_life_days: float = Field(7, gt=0, description="an event's weight in trending halves in this time")

    popularity_once_hours: float = Field(
        24, ge=0, description="within so many hours a user's events of an item count once in trending, as the strongest"
    )

    explore: float = Field(0.0, ge=0, le=1, description="share of an answer's places that random new items get")
    explore_days: float = Field(14.0, gt=0, description="an item is new for so many days after its listing")
    exposures: float = Field(
        1.0, ge=0, le=1, description="share of all answers whose items are written to the topic exposures"
    )

    host: str = Field("127.0.0.1", description="address that the HTTP servers bind; Flink's REST stays on 127.0.0.1")
    retrieval_port: Port = Field(8080, description="port of GET /recommend")
    ingest_port: Port = Field(8088, description="port of POST /events and of the items' routes")
    web_port: Port = Field(8090, description="port of the page")
    web_users: str = Field(
        "17850, 13242, 12748, 14911",
        description="users that the page offers to choose from, comma separated, if known",
    )
    web_hosts: str = Field(
        "", description="host names of the page, beside localhost and this machine's own, comma separated"
    )
    web_currency: str = Field("£", max_length=8, description="currency sign that the page writes before prices")
    ingest_body_mib: float = Field(4, gt=0, le=256, description="largest body of a request to ingest; beyond it 413")
    ingest_in_flight_mib: float = Field(
        32,
        gt=0,
        description="memory for bodies that are not in the log yet (each at least 16 KiB); beyond it 429",
    )
    ingest_ack_timeout_ms: int = Field(
        5_000, ge=500, description="how long ingest waits for the log's acknowledgement; beyond it 503"
    )
    user_tower_port: int = Field(
        9101, ge=1, le=65_535, description="port of user_tower's /healthz, /readyz and /metrics"
    )
    item_tower_port: int = Field(
        9102, ge=1, le=65_535, description="port of item_tower's /healthz, /readyz and /metrics"
    )
    job_port: Port = Field(9103, description="port of the last_n launcher's /metrics")
    canary_port: Port = Field(9104, description="port of the canary's /healthz, /readyz and /metrics")
    canary_every_s: float = Field(
        1.0, ge=0, description="interval of the clicks of the canary, a synthetic user; 0: the canary is not started"
    )
    metrics_of: str = Field(
        "",
        description="parts' /metrics on other machines, such as user_tower=http://tower:9101, comma separated",
    )
    traces: str = Field(
        "", description="OTLP endpoint for traces, such as http://127.0.0.1:4318/v1/traces; empty: no traces"
    )
    traces_share: float = Field(0.01, ge=0, le=1, description="share of traced clicks, if there is an endpoint")
    flink_metrics_port: Port = Field(9249, description="port of Flink's own Prometheus reporter")
    flink_rest_port: Port = Field(8082, description="port of Flink's REST interface")
    flink_lib: Path = Field(Path("build/flink/lib"), description="folder with Flink's Kafka connector and zstd jars")

    startup_deadline_s: float = Field(120, gt=0, description="how long a part waits for its dependencies at start")
    request_timeout_ms: int = Field(1000, gt=0, description="deadline of one Triton request")
    budget_ms: float = Field(
        100,
        gt=0,
        description="time budget of one answer; beyond it, optional steps are left out and named in the answer",
    )
    page_secret: SecretStr = Field(
        SecretStr(""),
        description="secret that signs page tokens, the same for all replicas; default: that in the file",
    )
    page_secret_file: Path | None = Field(
        None,
        description="file with that secret, made if missing, for replicas of one host; default: `page-secret` in data",
    )
    store_timeout_ms: int = Field(20, gt=0, description="deadline of one read of the store on the request path")
    log_key: SecretStr = Field(
        SecretStr(""),
        description="key of the hashes that replace user ids in logs; empty: anyone can compute an id's hash",
    )
    log_level: str = Field("info", description="debug, info, warning or error")
    log_format: str = Field("json", description="json or console")

    @property
    def embedding_space(self) -> Space:
        """The embedding space of this process."""
        return Space(self.space, self.dimension)

    @property
    def brokers(self) -> Brokers:
        """The log's addresses, TLS and login; ``Misconfigured`` if a certificate file is missing."""
        files = (self.kafka_ca, self.kafka_certificate, self.kafka_private_key)
        tls = tls_of("KAFKA", self.kafka_tls, *files)
        password = self.kafka_password.get_secret_value()
        return Brokers(self.kafka, tls, self.kafka_user, password, self.kafka_mechanism)

    @property
    def triton_security(self) -> Tls | None:
        """TLS to Triton, or ``None``; ``Misconfigured`` if a certificate file is missing."""
        return tls_of("TRITON", self.triton_tls, self.triton_ca, self.triton_certificate, self.triton_private_key)

    @property
    def store_security(self) -> Tls | None:
        """Certificates for TLS to Couchbase, or ``None``; ``Misconfigured`` if a file is missing."""
        return tls_of("STORE", False, self.store_ca, self.store_certificate, self.store_private_key)

    @property
    def store_url(self) -> str:
        """The store's URL; by default LMDB in the data folder."""
        return self.store or f"lmdb://{self.data.absolute()}/store"

    @property
    def snapshots_folder(self) -> Path | None:
        """The folder of the index's snapshots for this space; ``None`` if snapshots are off."""
        if self.snapshots == "":
            return None
        return Path(self.snapshots or self.data / "snapshots") / f"space-{self.space}"

    @property
    def seen_policy(self) -> SeenPolicy:
        """How long an event of each type makes its item count as seen; ``Misconfigured`` names a malformed part."""
        return parse_seen_policy(self.seen)

    @property
    def log_options(self) -> dict[str, str]:
        """The arguments for ``configure_logs``."""
        return {"level": self.log_level, "style": self.log_format, "key": self.log_key.get_secret_value()}

    @property
    def history_ttl_ms(self) -> int:
        """After how long an idle user's data is deleted."""
        return int(self.history_ttl_days * 24 * 3600 * 1000)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; ``Misconfigured`` names the variable, what came and what was expected."""
    environ = os.environ if environ is None else environ
    given = {k.upper(): v for k, v in environ.items() if k.upper().startswith(PREFIX)}
    _refuse_unknown(given)
    try:
        return Settings(**{k.removeprefix(PREFIX).lower(): v for k, v in given.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        about = Settings.model_fields[str(first["loc"][0])].description
        raise Misconfigured(f"{name}={first['input']!r}: {first['msg']} ({about})") from None


def _refuse_unknown(given: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(given.keys() - known):
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise Misconfigured(f"unknown setting {name}{guess} Known: {', '.join(sorted(known))}")
