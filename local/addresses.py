"""The ports of the system on one machine, and the variables that configure every part with them.

Standard library only (the doctor checks the ports before any environment exists). The names and defaults are those of
`nearline/settings.py`; a test compares the two.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from local.layout import ROOT
from local.ports import HOST, free_ports
from nearline.errors import Misconfigured

# A part's port comes from the same variable that the part itself reads.
_VARIABLES: Mapping[str, str] = {
    "kafka": "NEARLINE_KAFKA",
    "triton": "NEARLINE_TRITON",
    "retrieval": "NEARLINE_RETRIEVAL_PORT",
    "ingest": "NEARLINE_INGEST_PORT",
    "user_tower": "NEARLINE_USER_TOWER_PORT",
    "item_tower": "NEARLINE_ITEM_TOWER_PORT",
    "job": "NEARLINE_JOB_PORT",
    "web": "NEARLINE_WEB_PORT",
    "canary": "NEARLINE_CANARY_PORT",
    "flink_metrics": "NEARLINE_FLINK_METRICS_PORT",
    "flink_rest": "NEARLINE_FLINK_REST_PORT",
}
_SERVICES = ("retrieval", "ingest")  # the command line needs their base URLs


@dataclass(frozen=True)
class Ports:
    """Every port that the system listens on, all on the loopback address."""

    kafka: int = 9092
    kafka_controller: int = 9093
    kafka_metrics: int = 9094
    triton: int = 8001
    triton_metrics: int = 8002
    retrieval: int = 8080
    ingest: int = 8088
    user_tower: int = 9101
    item_tower: int = 9102
    job: int = 9103
    canary: int = 9104
    flink_metrics: int = 9249
    flink_rest: int = 8082
    web: int = 8090

    def by_name(self) -> dict[str, int]:
        """All ports, by the name of what listens there."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def environment(self) -> dict[str, str]:
        """The variables that make every part use these ports."""
        addresses = {"NEARLINE_KAFKA": f"{HOST}:{self.kafka}", "NEARLINE_TRITON": f"{HOST}:{self.triton}"}
        ports = {variable: str(getattr(self, name)) for name, variable in _VARIABLES.items()}
        services = {f"NEARLINE_{name.upper()}": f"http://{HOST}:{getattr(self, name)}" for name in _SERVICES}
        return {**ports, **addresses, **services}

    @staticmethod
    def free() -> "Ports":
        """Ports that are free at this moment."""
        return Ports(*free_ports(len(fields(Ports))))

    @staticmethod
    def from_environment(environ: Mapping[str, str] | None = None) -> "Ports":
        """The defaults, changed by the NEARLINE_* variables; a changed port's neighbours change with it."""
        environ = os.environ if environ is None else environ
        given = {
            name: _port(environ[variable], variable) for name, variable in _VARIABLES.items() if variable in environ
        }
        if "kafka" in given:
            given |= {"kafka_controller": given["kafka"] + 1, "kafka_metrics": given["kafka"] + 2}
        if "triton" in given:
            given |= {"triton_metrics": given["triton"] + 1}
        return Ports(**given)


def variable_of(name: str) -> str:
    """The variable that sets the port *name*."""
    moved_by = next((server for server in ("kafka", "triton") if name.startswith(f"{server}_")), name)
    return _VARIABLES[moved_by]


def data_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of this machine's data: NEARLINE_DATA, or .nearline in the checkout."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("NEARLINE_DATA", ROOT / ".nearline")).absolute()


def _port(value: str, variable: str) -> int:
    host, _, port = value.rpartition(":")
    if host not in ("", HOST, "localhost"):
        raise Misconfigured(f"{variable}={value!r}: on one machine every part listens on {HOST}; leave the host out")
    if not port.isdigit() or not 1024 <= int(port) < 65_535:
        raise Misconfigured(f"{variable}={value!r}: expected a port between 1024 and 65534")
    return int(port)
