"""Who may import whom, walked through the source: docs/architecture.md says it in words."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.layout import ROOT

PARTS = ("services", "flink_jobs", "training")
OURS = ("nearline", "nearline_client", *PARTS, "local", "benchmarks")

# What the core may import beside the standard library, so that it works in every environment.
CORE_LIBRARIES = {"orjson", "xxhash", "numpy", "pydantic", "pydantic_settings", "structlog", "prometheus_client"}
# Data sets are read by the command line and the training only, attribution by the command line, the language of filters
# by retrieval and the command line, routes by the two APIs.
CORE_EXCEPTIONS = {
    ("nearline/attribution.py", "polars"),
    ("nearline/datasets.py", "polars"),
    ("nearline/filters.py", "lark"),
    ("nearline/table_cells.py", "polars"),
    ("nearline/table_events.py", "polars"),
    ("nearline/table_files.py", "polars"),
    ("nearline/table_files.py", "zstandard"),
    ("nearline/table_items.py", "polars"),
    ("nearline/table_users.py", "polars"),
    ("nearline/strict_routes.py", "fastapi"),
    ("nearline/strict_routes.py", "starlette"),
    ("nearline/tables.py", "polars"),
}
# One file, or one folder, alone talks to a library. The standard library's names would say nothing here.
ONE_HOME_EACH = {
    "couchbase": "nearline/adapters/couchbase.py",
    "google": "nearline/adapters/gorse_dump.py",
    "cryptography": "nearline/adapters/tokens.py",
    "hnswlib": "nearline/adapters/hnsw.py",
    "jwt": "nearline/adapters/tokens.py",
    "kafka": "nearline/adapters/kafka/",
    "lmdb": "nearline/adapters/lmdb.py",
    "opentelemetry": "nearline/adapters/traces.py",
    "pymilvus": "nearline/adapters/milvus.py",
    "supervisor": "local/supervision.py",
    "throttled": "nearline/adapters/limits.py",
    "tokenizers": "nearline/adapters/tokenizer.py",
    "jgo": "local/downloads.py",
    "tritonclient": "nearline/adapters/triton.py",
}
# What app.py puts together in one of two ways.
RETRIEVAL_KINDS = {
    "services/retrieval/merchandising/wiring.py",
    "services/retrieval/in_process/local_items.py",
    "services/retrieval/in_engine/remote_items.py",
    "services/retrieval/routes/read_parts.py",
}
# An answer's way, from the top: a floor imports those below it, and what stands beside it on its own.
RETRIEVAL_FLOORS: tuple[set[str], ...] = (
    {"app", "__main__"},
    {"api", "routes"},
    {"fast_path", "models", "parameters", "spaces", "sessions", "why"},
    {"recommender"},
    {"pages", "rendering"},
    {"pipeline"},
    {"merchandising"},
    {"exposure_log"},
    {"provenance", "request", "users"},
    {"result", "in_engine", "in_process"},
    {"breaker", "items"},
)
# What ours is compared with: libraries as somebody without us would use them, in an environment of their own.
COMPARED = {"benchmarks/index/peers.py"}
ROOT_NAMES = {"app.py", "job.py", "__main__.py"}
TRAINING_ENTRIES = {"training/train.py", "training/export.py", "training/freshness_value.py"}


def imports(source: str) -> set[str]:
    """Every module that *source* imports, wherever in the file it does, in full dotted form."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


def is_composition_root(file: str) -> bool:
    """Whether *file* wires a program together, and so may choose adapters."""
    path = Path(file)
    if path.parts[0] in ("local", "benchmarks"):
        return True
    if path.parts[0] == "nearline":
        return path.name.startswith("cli") or path.parts[1] == "cli"
    return path.name in ROOT_NAMES or file in TRAINING_ENTRIES | RETRIEVAL_KINDS


def violations(file: str, source: str) -> Iterator[str]:
    """What in *file* breaks a rule, as sentences."""
    part = Path(file).parts[0]
    for module in sorted(imports(source)):
        if module.startswith("nearline.adapters"):
            inside = file.startswith("nearline/adapters/")
            if not inside and not is_composition_root(file):
                yield f"{file} imports {module}: only composition roots choose adapters"
        if part in PARTS and top(module) in PARTS:
            own = ".".join(Path(file).parts[:2]) if part == "services" else part
            if not (module + ".").startswith(own + "."):
                yield f"{file} imports {module}: parts meet in topics, not in code"
        if part == "nearline" and top(module) in OURS and top(module) != "nearline" and not is_the_client(file, module):
            yield f"{file} imports {module}: the core knows no part"
        if part == "nearline_client" and top(module) not in {*sys.stdlib_module_names, "httpx", "nearline_client"}:
            yield f"{file} imports {module}: the client is installed by others, who have httpx and nothing of ours"
        if part in PARTS and top(module) in ("local", "benchmarks", "nearline_client"):
            yield f"{file} imports {module}: parts do not know where they run"
        home = ONE_HOME_EACH.get(top(module))
        if home is not None and not is_in(file, home) and file not in COMPARED:
            yield f"{file} imports {module}: only {home} talks to that library"
        if is_core(file) and not is_known_to_core(file, module):
            yield f"{file} imports {module}: the core must import in every environment"


def is_in(file: str, home: str) -> bool:
    """Whether *file* is *home*, or lies in it if that is a folder."""
    return file.startswith(home) if home.endswith("/") else file == home


def floor_of(module: str) -> int | None:
    """Which floor of retrieval the dotted *module* is on, from the top; ``None`` if on none."""
    parts = module.split(".")
    if parts[:2] != ["services", "retrieval"] or len(parts) < 3:
        return None
    return next((at for at, names in enumerate(RETRIEVAL_FLOORS) if parts[2] in names), None)


def climbs(file: str, source: str) -> Iterator[str]:
    """The imports of *file* that go up: an answer's way is read downwards."""
    own = floor_of(file.removesuffix(".py").replace("/", "."))
    for module in sorted(imports(source)):
        floor = floor_of(module)
        if own is not None and floor is not None and floor < own:
            yield f"{file} imports {module}: that is above it (RETRIEVAL_FLOORS)"


def is_the_client(file: str, module: str) -> bool:
    """The command line calls the API as other programs do."""
    return top(module) == "nearline_client" and is_composition_root(file)


def is_core(file: str) -> bool:
    return file.startswith("nearline/") and not file.startswith("nearline/adapters/") and not is_composition_root(file)


def is_known_to_core(file: str, module: str) -> bool:
    name = top(module)
    return (
        name == "nearline"
        or name in sys.stdlib_module_names
        or name in CORE_LIBRARIES
        or (file, name) in CORE_EXCEPTIONS
    )


def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def test_no_file_breaks_the_import_rules() -> None:
    broken = [line for file in sources() for line in violations(file, (ROOT / file).read_text())]
    assert broken == [], "\n".join(broken)


def test_every_client_of_the_log_gets_in_as_the_settings_say() -> None:
    """``settings.kafka`` is an address without TLS and login; who connects takes ``settings.brokers``."""
    bare = re.compile(r"(settings|load_settings\(\))\.kafka\b")
    found = [file for file in sources() if bare.search((ROOT / file).read_text())]
    assert found == [], "take settings.brokers instead"
    assert bare.search("Producer(load_settings().kafka)")


def test_the_import_check_reads_the_source() -> None:
    assert {"nearline/errors.py", "local/broker.py", "nearline/adapters/kafka/admin.py"} <= set(sources())


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nearline/events.py", "from nearline.adapters.kafka.producer import Producer"),
        ("nearline/events.py", "import nearline.adapters"),
        ("nearline/events.py", "from nearline import adapters"),
        ("nearline/events.py", "from services.retrieval import app"),
        ("nearline/events.py", "import requests"),
        ("nearline/other.py", "import polars"),
        ("services/user_tower/worker.py", "def late():\n    from nearline.adapters.lmdb import LmdbStore"),
        ("services/user_tower/app.py", "from services.item_tower import worker"),
        ("services/user_tower/app.py", "import flink_jobs.last_n.history"),
        ("flink_jobs/last_n/job.py", "from training import towers"),
        ("training/data/log.py", "import services"),
        ("services/retrieval/app.py", "from local.ports import free_ports"),
        ("services/retrieval/app.py", "import hnswlib"),
        ("benchmarks/index/churn.py", "import hnswlib"),
        ("local/demo.py", "from kafka import KafkaProducer"),
        ("nearline/adapters/kafka.py", "from kafka import KafkaProducer"),
        ("nearline_client/calls.py", "from nearline.events import Event"),
        ("nearline_client/calls.py", "import orjson"),
        ("nearline/exports.py", "from nearline_client import Client"),
        ("services/retrieval/app.py", "import nearline_client"),
    ],
)
def test_a_forbidden_import_is_reported(file: str, source: str) -> None:
    assert list(violations(file, source)) != []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("services/user_tower/app.py", "from nearline.adapters.kafka.producer import Producer"),
        ("services/user_tower/worker.py", "from services.user_tower.documents import document_of"),
        ("flink_jobs/last_n/job.py", "from pyflink.table import StreamTableEnvironment"),
        ("nearline/adapters/kafka/reader.py", "from kafka import KafkaConsumer"),
        ("nearline/cli.py", "from nearline.adapters.kafka.admin import Topics"),
        ("nearline/events.py", "import json, orjson"),
        ("local/demo.py", "from nearline.adapters.kafka.producer import Producer"),
        ("nearline/cli/importing.py", "from nearline_client import AsyncClient"),
        ("nearline_client/client.py", "import httpx, threading\nfrom nearline_client.calls import Call"),
    ],
)
def test_allowed_imports_are_not_reported(file: str, source: str) -> None:
    assert list(violations(file, source)) == []
