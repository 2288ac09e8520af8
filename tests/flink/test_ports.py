"""Where the job listens, and whom Flink's REST interface answers."""

import json
import subprocess
import urllib.error
import urllib.request

import pytest

from local.layout import ROOT, environment_python
from local.ports import HOST
from tests.support.sockets import beyond_loopback, listeners

from .conftest import Job, children

UNNAMED = 3  # Flink's blob server, and the two of py4j, by which PyFlink and the JVM call each other


def test_every_port_is_known_and_bound_to_this_machine(job: Job) -> None:
    assert job.process is not None
    launcher, java = job.process.pid, job.java_pid()
    assert children(java) == []
    found = listeners([launcher, java])
    assert beyond_loopback(found) == set()
    named = {job.job_port, job.metrics_port, job.rest_port}
    ports = {port for _, port in found}
    assert named <= ports
    assert len(ports - named) == UNNAMED, found


def ask(job: Job, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
    """The status of Flink's answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{HOST}:{job.rest_port}{path}", data=body, headers=named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Host": "elsewhere.example"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/overview"), ("POST", "/jobs"), ("PATCH", "/jobs/0")])
def test_flink_refuses_what_a_page_of_another_site_sends(
    job: Job, method: str, path: str, headers: dict[str, str]
) -> None:
    assert ask(job, path, method, b"{}" if method != "GET" else None, **headers) == 403


def test_flink_answers_its_own_page_and_programs(job: Job) -> None:
    own = f"http://{HOST}:{job.rest_port}"
    assert ask(job, "/jobs/overview") == 200
    assert ask(job, "/jobs/overview", Origin=own, Sec_Fetch_Site="same-origin") == 200
    assert ask(job, "/", Sec_Fetch_Site="none", Host=f"localhost:{job.rest_port}") == 200


def test_flink_takes_no_jar_and_shows_no_button_that_cancels(job: Job) -> None:
    assert ask(job, "/jars") == 404
    with urllib.request.urlopen(f"http://{HOST}:{job.rest_port}/config", timeout=10) as answer:
        features = json.load(answer)["features"]
        assert answer.headers["Access-Control-Allow-Origin"] == f"http://{HOST}:{job.rest_port}"
    assert (features["web-submit"], features["web-cancel"]) == (False, False)


def test_what_the_refused_sent_is_not_kept(job: Job) -> None:
    """Flink writes the files of a form into a folder before it looks at the request."""
    line, end = b"--limit\r\n", b"--limit--\r\n"
    head = b'Content-Disposition: form-data; name="file"; filename="harmless.txt"\r\n\r\n'
    body = line + head + b"x" * 100_000 + b"\r\n" + end
    form = {"Content-Type": "multipart/form-data; boundary=limit", "Origin": "https://elsewhere.example"}
    assert ask(job, "/jobs", "POST", body, **form) == 403
    assert not list(job.data.rglob("harmless.txt"))


def test_the_rest_interface_stays_on_this_machine_whatever_the_servers_bind() -> None:
    code = (
        "import json, pathlib; from flink_jobs.last_n.minicluster import cluster_configuration, rest_url\n"
        "from nearline.settings import load_settings\n"
        "settings = load_settings({'NEARLINE_HOST': '0.0.0.0'})\n"
        "print(json.dumps([cluster_configuration(settings, pathlib.Path('.')), rest_url(settings)]))"
    )
    python = str(environment_python("flink"))
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    asked, rest = json.loads(done.stdout.splitlines()[-1])
    bound = ("rest.address", "rest.bind-address", "jobmanager.bind-host", "taskmanager.bind-host")
    assert {asked[name] for name in bound} == {HOST}
    assert asked["metrics.reporter.prometheus.host"] == "0.0.0.0", "as the other parts' metrics"
    assert rest == f"http://{HOST}:8082"
