"""The compose file: what compose itself refuses (by its own loader), and what it does not look at (our checks).

Each check of ours is a function from a compose file to the list of what is wrong with it; it is tried on the real file,
which must give an empty list, and on the same file with one defect, which must not.
"""

import copy
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from typer.core import TyperGroup

from local.addresses import Ports
from local.broker import server_properties
from local.layout import ROOT
from local.system import OneTimeTask, System
from nearline.adapters.metrics_reader import addresses_of
from nearline.cli.app import app
from nearline.settings import PREFIX, Settings, load_settings

FILE = ROOT / "docker-compose.yml"
LIGHT = ROOT / "docker-compose.light.yml"
LOADER = ROOT / "tools" / "compose_check"

Compose = dict[str, Any]
Check = Callable[[Compose], list[str]]


@pytest.fixture
def compose() -> Compose:
    """The compose file with its defaults filled in, as plain data."""
    return read(FILE.read_text())


def read(text: str) -> Compose:
    loaded: Compose = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return loaded


def services(compose: Compose) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose["services"].items()


def is_one_shot(service: dict[str, Any]) -> bool:
    return str(service.get("restart", "")).startswith("on-failure")


def host_port(published: str) -> str:
    return published.rpartition(":")[0]


# --- what compose does not look at -----------------------------------------------------------------------------------


def missing_files(compose: Compose) -> list[str]:
    """Files of this repository that a service mounts, is built from or reads, and that do not exist."""
    named = [(name, entry.split(":")[0]) for name, s in services(compose) for entry in s.get("volumes", [])]
    named += [(name, f"./{s['build']['dockerfile']}") for name, s in services(compose) if "build" in s]
    named += [(kind, entry["file"]) for kind in ("configs", "secrets") for entry in compose.get(kind, {}).values()]
    return [f"{name}: {path} does not exist" for name, path in named if path[0] == "." and not (ROOT / path).exists()]


def impossible_conditions(compose: Compose) -> list[str]:
    """Services that wait for the health of one without a check, or for the end of one that does not end."""
    wrong = []
    for name, service in services(compose):
        for other, rule in service.get("depends_on", {}).items():
            target = compose["services"][other]
            if rule["condition"] == "service_healthy" and "healthcheck" not in target:
                wrong.append(f"{name} waits for the health of {other}, which has no check")
            if rule["condition"] == "service_completed_successfully" and not is_one_shot(target):
                wrong.append(f"{name} waits for the end of {other}, which is restarted")
    return wrong


def gated_dependencies(compose: Compose) -> list[str]:
    """Services that cannot start without one that only a profile starts."""
    return [
        f"{name} needs {other}, which runs with {compose['services'][other]['profiles']} only"
        for name, service in services(compose)
        for other, rule in service.get("depends_on", {}).items()
        if set(compose["services"][other].get("profiles", [])) - set(service.get("profiles", []))
        and rule.get("required", True)
    ]


def doubled_ports(compose: Compose) -> list[str]:
    """Ports of this machine that two services ask for."""
    asked: dict[str, list[str]] = {}
    for name, service in services(compose):
        for published in service.get("ports", []):
            asked.setdefault(host_port(published).rpartition(":")[2], []).append(name)
    return [f"port {port}: {', '.join(names)}" for port, names in asked.items() if len(names) > 1]


def open_ports(compose: Compose) -> list[str]:
    """Ports that are published to the network and not to this machine only."""
    return [
        f"{name} publishes {published}"
        for name, service in services(compose)
        for published in service.get("ports", [])
        if not host_port(published).startswith("127.0.0.1:")
    ]


def unpinned_images(compose: Compose) -> list[str]:
    """Images whose tag is missing or may mean another image tomorrow."""
    exact = re.compile(r".+:[a-z-]*\d+\.\d+[\w.-]*")
    return [f"{name}: {s['image']}" for name, s in services(compose) if not exact.fullmatch(s["image"])]


def unwatched(compose: Compose) -> list[str]:
    """Services without a memory limit, a restart policy, or (when they run for ever) a health check."""
    wrong = [f"{name}: no mem_limit" for name, s in services(compose) if "mem_limit" not in s]
    wrong += [f"{name}: no restart policy" for name, s in services(compose) if "restart" not in s]
    lasting = [(name, s) for name, s in services(compose) if not is_one_shot(s)]
    wrong += [f"{name}: restart {s.get('restart')}" for name, s in lasting if s.get("restart") != "unless-stopped"]
    return wrong + [f"{name}: no health check" for name, s in lasting if "healthcheck" not in s]


def unknown_programs(compose: Compose) -> list[str]:
    """Commands that name a module or a script which this repository does not have."""
    wrong = []
    for name, service in services(compose):
        for words in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
            after = dict(itertools.pairwise(words))
            if "-m" in after and not is_module(after["-m"]):
                wrong.append(f"{name}: no module {after['-m']}")
            scripts = [word for word in words if word.endswith(".py") and not word.startswith("/")]
            wrong += [f"{name}: no script {script}" for script in scripts if not (ROOT / script).exists()]
    return wrong


def is_module(dotted: str) -> bool:
    path = ROOT / dotted.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def refused_settings(compose: Compose) -> list[str]:
    """NEARLINE_* variables that no setting has, or whose value the settings refuse."""
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    wrong = []
    for name, service in services(compose):
        given = {k: str(v) for k, v in service.get("environment", {}).items() if k.startswith(PREFIX)}
        unknown = sorted(given.keys() - known)
        wrong += [f"{name}: {variable}" for variable in unknown]
        if not unknown:
            load_settings(given)
    return wrong


def dear_checks(compose: Compose) -> list[str]:
    """Health checks that cost much for ever: by a shell, by Kafka's tools (a JVM each), or every few seconds.

    A shell's child outlives a check that runs out of time.
    """
    wrong = []
    for name, service in services(compose):
        check = service.get("healthcheck", {})
        words = check.get("test", ["CMD"])
        if words[0] != "CMD" or any(word.endswith(".sh") for word in words):
            wrong.append(f"{name}: {words}")
        if words[1:2] == ["python"]:
            if not {"-IS", "-S"} & set(words):
                wrong.append(f"{name}: Python without -S loads what the check does not need")
            if check["interval"] != "30s" or check["timeout"] != "10s":
                wrong.append(f"{name}: every {check['interval']} within {check['timeout']}")
    return wrong


def other_bases(compose: Compose) -> list[str]:
    """Images of ours that cannot be made from another base (with a CA bundle, a pip.conf)."""
    built = [(name, s["build"].get("args") or {}) for name, s in services(compose) if "build" in s]
    return [f"{name}: {args}" for name, args in built if args.get("BASE") != "python:3.11.14-slim-bookworm"]


def rights(compose: Compose) -> list[str]:
    """Services that keep capabilities or may gain some; Couchbase's own supervisor changes users."""
    keeping = [name for name, s in services(compose) if s.get("cap_drop") != ["ALL"] and name != "couchbase"]
    added = [(name, s["cap_add"]) for name, s in services(compose) if "cap_add" in s]
    gaining = [name for name, s in services(compose) if "no-new-privileges:true" not in s.get("security_opt", [])]
    return [
        *(f"{name} keeps its capabilities" for name in keeping),
        *(f"{name} gets {more}" for name, more in added if (name, more) != ("proxy", ["NET_BIND_SERVICE"])),
        *(f"{name} may gain rights" for name in gaining),
    ]


def defective(change: Callable[[Compose], None]) -> Compose:
    broken = copy.deepcopy(read(FILE.read_text()))
    change(broken)
    return broken


def change(path: str, value: object) -> Callable[[Compose], None]:
    """A defect: *value* at the dotted *path*, ``None`` to delete what is there."""

    def apply(compose: Compose) -> None:
        *folders, last = path.split("/")
        at: Any = compose
        for folder in folders:
            at = at[folder]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return apply


CHECKS_AND_DEFECTS: list[tuple[Check, Callable[[Compose], None]]] = [
    (missing_files, change("services/triton/volumes", ["./modell_repository:/models:ro"])),
    (missing_files, change("services/retrieval/build/dockerfile", "deploy/services/Dokerfile")),
    (missing_files, change("configs", {"rules": {"file": "./deploy/no-such.yml"}})),
    (missing_files, change("secrets", {"password": {"file": "./no-such.txt"}})),
    (impossible_conditions, change("services/kafka/healthcheck", None)),
    (impossible_conditions, change("services/init/restart", "unless-stopped")),
    (gated_dependencies, change("services/triton/profiles", ["cpu"])),
    (gated_dependencies, change("services/user_tower/depends_on/triton-gpu/required", True)),
    (doubled_ports, change("services/retrieval/ports", ["127.0.0.1:9092:8080"])),
    (open_ports, change("services/kafka/ports", ["9092:9092"])),
    (unpinned_images, change("services/grafana/image", "grafana/grafana:latest")),
    (unpinned_images, change("services/grafana/image", "grafana/grafana")),
    (unpinned_images, change("services/grafana/image", "grafana/grafana:12")),
    (unwatched, change("services/demo/mem_limit", None)),
    (unwatched, change("services/triton/healthcheck", None)),
    (unwatched, change("services/triton/restart", None)),
    (unwatched, change("services/triton/restart", "no")),
    (unknown_programs, change("services/retrieval/command", ["python", "-m", "services.retreival"])),
    (unknown_programs, change("services/jobmanager/command", ["python", "deploy/flink/job_manager.py"])),
    (unknown_programs, change("services/jobmanager/healthcheck/test", ["CMD", "python", "deploy/health.py"])),
    (dear_checks, change("services/kafka/healthcheck/test", ["CMD-SHELL", "true"])),
    (dear_checks, change("services/kafka/healthcheck/test", ["CMD", "/opt/kafka/bin/kafka-cluster.sh", "cluster-id"])),
    (
        dear_checks,
        change("services/ingest/healthcheck/test", ["CMD", "python", "deploy/services/healthy.py", "http://x"]),
    ),
    (dear_checks, change("services/ingest/healthcheck/interval", "5s")),
    (dear_checks, change("services/ingest/healthcheck/timeout", "5s")),
    (other_bases, change("services/kafka/build/args", None)),
    (other_bases, change("services/kafka/build/args", {"BASE": "alpine:3.20"})),
    (rights, change("services/triton/cap_drop", None)),
    (rights, change("services/ingest/cap_add", ["SYS_ADMIN"])),
    (rights, change("services/prometheus/security_opt", None)),
    (refused_settings, change("services/retrieval/environment/NEARLINE_KAFFKA", "kafka:19092")),
]
CHECKS = list(dict.fromkeys(check for check, _ in CHECKS_AND_DEFECTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_compose_file_passes(check: Check, compose: Compose) -> None:
    """Nothing that compose would not have told us is wrong."""
    assert check(compose) == []


@pytest.mark.parametrize(
    ("check", "defect"), CHECKS_AND_DEFECTS, ids=[f"{c.__name__}-{i}" for i, (c, _) in enumerate(CHECKS_AND_DEFECTS)]
)
def test_each_compose_check_reports_its_defect(check: Check, defect: Callable[[Compose], None]) -> None:
    """A check that passes a broken file is worth nothing."""
    assert len(check(defective(defect))) >= 1


# --- the same as without containers ----------------------------------------------------------------------------------


def test_the_parts_are_the_programs_that_run_without_containers(compose: Compose, tmp_path: Path) -> None:
    """What the compose file starts of ours is what ``local.system`` starts."""
    plan = System(tmp_path, Ports()).plan
    commands = [[*step.command] for step in plan if isinstance(step, OneTimeTask)]
    commands += [[*part.program.command] for step in plan if not isinstance(step, OneTimeTask) for part in step]
    without = {" ".join(words[words.index("-m") + 1 :]) for words in commands}
    ours = {" ".join(s["command"][2:]) for _, s in services(compose) if s.get("command", [])[:2] == ["python", "-m"]}
    job = re.search(r'JOB_MODULE = "(.+)"', (ROOT / "deploy/flink/jobmanager.py").read_text())
    assert job is not None
    started = ours | {job.group(1)}
    others = {words for words in without if words.split()[0] in ("local.broker", "local.triton")}
    assert without - others <= started
    assert {words for words in started - without if not words.startswith("nearline.cli replay ")} == set()


def test_the_command_line_takes_the_words_that_it_is_given(compose: Compose) -> None:
    """``init`` and ``demo`` name commands and options that exist (parsed only, nothing is done)."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for service in ("init", "demo"):
        words = compose["services"][service]["command"]
        assert words[:3] == ["python", "-m", "nearline.cli"]
        name, command, rest = group.resolve_command(
            group.make_context("nearline", words[3:], resilient_parsing=True), words[3:]
        )
        assert command is not None
        assert command.make_context(name, rest).params is not None


def test_kafka_is_configured_as_without_containers(compose: Compose) -> None:
    """Every setting of the local broker that is not an address or a size of this machine is the container's too."""
    environment = compose["services"]["kafka"]["environment"]
    here = {
        name[6:].lower().replace("_", "."): str(value) for name, value in environment.items() if name[:6] == "KAFKA_"
    }
    local = dict(line.split("=", 1) for line in server_properties(Path("log"), 1, 2).splitlines())
    addresses = {"listeners", "advertised.listeners", "listener.security.protocol.map", "controller.quorum.voters"}
    own = addresses | {"log.dirs", "inter.broker.listener.name", "num.network.threads", "num.io.threads"}
    own |= {"log.cleaner.dedupe.buffer.size"}
    assert {name: here.get(name) for name in local.keys() - own} == {name: local[name] for name in local.keys() - own}


def test_every_part_is_asked_for_its_health_on_the_port_that_it_listens_on(compose: Compose) -> None:
    """Health checks, published ports and Prometheus name the ports that the settings give the parts."""
    default = load_settings({})
    ports = {"item_tower": default.item_tower_port, "user_tower": default.user_tower_port}
    ports |= {"retrieval": default.retrieval_port, "ingest": default.ingest_port, "web": default.web_port}
    asked = {name: compose["services"][name]["healthcheck"]["test"][-1] for name in ports}
    assert asked == {name: f"http://127.0.0.1:{port}/readyz" for name, port in ports.items()}
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped if "static_configs" in job}
    expected = {name: [f"{name}:{port}"] for name, port in ports.items()}
    expected["jobmanager"] = [f"jobmanager:{default.flink_metrics_port}"]
    assert {name: targets[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["triton", "triton-gpu"])
def test_triton_is_started_by_our_program_which_closes_http_and_asks_for_a_secret(compose: Compose, name: str) -> None:
    words = compose["services"][name]["command"]
    assert words[:7] == [
        "python3",
        "/serve.py",
        "run",
        "127.0.0.1:8001",
        "/models",
        "/tmp/triton-secret",
        "tritonserver",
    ]
    assert not [word for word in words if "http" in word]


# --- what a reader is promised ---------------------------------------------------------------------------------------


def test_the_profiles_are_gpu_observe_replicas_and_milvus(compose: Compose) -> None:
    """Without a profile the whole system runs; ``gpu`` adds a Triton with a device, ``observe`` what watches."""
    gated = {name: service["profiles"] for name, service in services(compose) if "profiles" in service}
    expected = {"gpu": ["triton-gpu"], "observe": ["prometheus", "grafana"]}
    expected |= {"replicas": ["retrieval-1", "retrieval-2", "proxy"], "milvus": ["milvus", "retrieval-milvus"]}
    assert gated == {name: [profile] for profile, names in expected.items() for name in names}
    gpu, cpu = compose["services"]["triton-gpu"], compose["services"]["triton"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert gpu["networks"]["default"]["aliases"] == ["triton"]
    assert (gpu["image"], gpu["command"], gpu["volumes"]) == (cpu["image"], cpu["command"], cpu["volumes"])


def test_every_retrieval_is_the_same_program_with_data_of_its_own(compose: Compose) -> None:
    """Two replicas in one folder would write over one another's snapshots."""
    parts = {name: service for name, service in services(compose) if name.startswith("retrieval")}
    assert len({str(service["volumes"]) for service in parts.values()}) == len(parts) == 4
    assert len({str((service["command"], service["healthcheck"])) for service in parts.values()}) == 1
    indexes = {name: service["environment"].get("NEARLINE_INDEX", "hnsw://") for name, service in parts.items()}
    assert indexes.pop("retrieval-milvus") == "milvus://milvus:19530"
    assert set(indexes.values()) == {load_settings({}).index}


def test_a_list_that_one_retrieval_begins_can_be_continued_by_any_other(compose: Compose) -> None:
    """They sign pages with the secret of one file, in a volume that all of them have."""
    parts = {name: service for name, service in services(compose) if name.startswith("retrieval")}
    assert {s["environment"]["NEARLINE_PAGE_SECRET_FILE"] for s in parts.values()} == {"/var/lib/nearline-pages/secret"}
    assert [name for name, s in parts.items() if "page-secret:/var/lib/nearline-pages" not in s["volumes"]] == []


def test_a_limit_that_an_engine_may_not_be_able_to_raise_is_a_variable() -> None:
    """``ulimits`` above what the engine may give end ``up``."""
    limits = [
        service["ulimits"]["nofile"]
        for _, service in services(yaml.safe_load(FILE.read_text()))
        if "ulimits" in service
    ]
    assert limits == [{"soft": "${COUCHBASE_OPEN_FILES:-200000}", "hard": "${COUCHBASE_OPEN_FILES:-200000}"}]


def test_every_part_is_found_by_the_status(compose: Compose) -> None:
    """Each part is another host here, so ``nearline status`` is given the addresses of all."""
    urls = addresses_of(
        load_settings(
            {
                "NEARLINE_METRICS_OF": compose["services"]["key"]["environment"]["NEARLINE_METRICS_OF"],
                "NEARLINE_INGEST": "http://ingest:8088",
                "NEARLINE_RETRIEVAL": "http://retrieval:8080",
            }
        )
    )
    hosts = {part: urlsplit(url).hostname for part, url in urls.items()}
    assert hosts == {part: part for part in urls} | {"launcher": "jobmanager", "last_n": "taskmanager"}
    assert hosts.keys() <= {*compose["services"], "launcher", "last_n"}


def test_the_proxy_asks_the_replicas_whether_they_are_ready(compose: Compose) -> None:
    """It knows the replicas by their names and ports, and every one of them."""
    said = (ROOT / "deploy/proxy/Caddyfile").read_text()
    upstreams = re.findall(r"reverse_proxy (.+) \{", said)[0].split()
    replicas = [name for name, service in services(compose) if service.get("profiles") == ["replicas"]]
    assert upstreams == [f"{name}:{load_settings({}).retrieval_port}" for name in replicas if name != "proxy"]
    assert "health_uri /readyz" in said


def test_the_address_of_milvus_is_one_that_retrieval_takes(compose: Compose) -> None:
    """The engine's own container and port."""
    given = compose["services"]["retrieval-milvus"]["environment"]["NEARLINE_INDEX"]
    host = given.removeprefix("milvus://").partition(":")[0]
    assert host in compose["services"]["retrieval-milvus"]["depends_on"]
    assert compose["services"][host]["ports"] == ["127.0.0.1:19530:19530"]


def test_the_example_environment_is_what_the_file_defaults_to() -> None:
    """``.env.example`` lists every variable of the compose file with the value that it has when it is left out."""
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", FILE.read_text()))
    assert re.findall(r"\$\{?\w+\}", FILE.read_text()) == [], "every variable needs a default"
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert listed == used


def test_every_copy_of_a_default_is_the_same() -> None:
    """A variable that stands in the file twice has one default."""
    defaults = set(re.findall(r"\$\{(\w+):-([^}]*)\}", FILE.read_text()))
    assert len(defaults) == len({name for name, _ in defaults})


# --- what compose refuses --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loader of docker compose, built from tools/compose_check."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: compose's own loader cannot be built")
    binary = tmp_path_factory.mktemp("loader") / "compose_check"
    built = subprocess.run(["go", "build", "-o", binary, "."], cwd=LOADER, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return binary


def load(loader: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([loader, file], capture_output=True, text=True, check=False, timeout=60)


def test_compose_accepts_the_file(loader: Path) -> None:
    """The loader that ``docker compose`` uses reads it with all profiles on."""
    done = load(loader, FILE)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == read(FILE.read_text())["services"].keys()


# --- the trial's file ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def light(loader: Path) -> Compose:
    """The trial's file as compose resolves it."""
    return resolved(loader, LIGHT)


@pytest.fixture(scope="session")
def whole(loader: Path) -> Compose:
    """The whole file as compose resolves it."""
    return resolved(loader, FILE)


def resolved(loader: Path, file: Path) -> Compose:
    done = load(loader, file)
    assert done.returncode == 0, done.stderr
    read: Compose = yaml.safe_load(done.stdout)
    return read


def test_the_trial_has_the_same_services_but_for_couchbase_and_what_needs_other_hardware(
    light: Compose, whole: Compose
) -> None:
    """Its data are its own: another project, so other volumes."""
    left_out = {"couchbase", "couchbase-init", "triton-gpu", "milvus", "retrieval-milvus"}
    assert whole["services"].keys() - light["services"].keys() == left_out
    assert light["services"].keys() <= whole["services"].keys()
    assert (light["name"], whole["name"]) == ("nearline-light", "nearline")


def test_the_trial_runs_the_same_programs_on_the_same_ports(light: Compose, whole: Compose) -> None:
    """Everything but Triton's command is the whole file's."""
    for name, service in services(light):
        other = whole["services"][name]
        assert service.get("ports") == other.get("ports"), name
        assert service.get("healthcheck") == other.get("healthcheck"), name
        if name != "triton":
            assert service.get("command") == other.get("command"), name


def test_a_trial_pulls_one_image(light: Compose) -> None:
    """Every service that runs without a profile is built here, from the one Python."""
    running = {name: service for name, service in services(light) if "profiles" not in service}
    assert [name for name, service in running.items() if "build" not in service] == []
    assert {service["build"]["args"]["BASE"] for service in running.values()} == {"python:3.11.14-slim-bookworm"}


def test_all_that_open_the_trials_store_share_its_volume_and_have_process_ids_of_their_own(light: Compose) -> None:
    """LMDB tells its readers apart by process ids, of which every container has the same few."""
    having = {name: service for name, service in services(light) if "store-data" in str(service.get("volumes", []))}
    assert having.keys() == {"user_tower", "retrieval", "retrieval-1", "retrieval-2", "key"}
    for service in having.values():
        assert service["entrypoint"] == ["python", "-IS", "deploy/services/own_pid.py"]
        assert service["environment"]["NEARLINE_STORE"] == "lmdb:///var/lib/nearline-store"
    first = sorted(int(service["environment"]["OWN_PID"]) for service in having.values())
    assert all(later - earlier >= 200 for earlier, later in itertools.pairwise(first))


def test_nothing_of_the_trial_waits_for_couchbase(light: Compose) -> None:
    """Neither a condition nor an address of it is left where the store is opened."""
    waiting = [name for name, service in services(light) if "couchbase" in str(service.get("depends_on", {}))]
    assert waiting == []
    assert "couchbase-data" not in light["volumes"]


@pytest.mark.parametrize(
    "defect",
    [
        change("services/kafka/mem_limt", "1g"),
        change("services/retrieval/depends_on/redis", {"condition": "service_healthy"}),
        change("services/kafka/depends_on", {"retrieval": {"condition": "service_healthy"}}),
        change("services/init/depends_on/kafka/condition", "service_helthy"),
        change("services/kafka/healthcheck/interval", "30 seconds"),
        change("services/kafka/ports", ["127.0.0.1:90920000:9092"]),
        change("volumes/kafka-data", None),
        change("services/retrieval/environment/X", "${NOT_SET:?has to be set}"),
        change("services/triton-gpu/deploy/resources/reservations/devices", [{"driver": "nvidia", "count": 1}]),
    ],
    ids=["key", "service", "cycle", "condition", "duration", "port", "volume", "variable", "device"],
)
def test_compose_refuses_a_defect(loader: Path, defect: Callable[[Compose], None], tmp_path: Path) -> None:
    """The loader is the real one: it finds what compose finds."""
    broken = defective(defect)
    if "volumes" not in broken or "kafka-data" not in broken["volumes"]:
        assert "kafka-data" in str(broken["services"]["kafka"]["volumes"])
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(broken))
    done = load(loader, file)
    assert done.returncode == 1
    assert str(file) in done.stderr
