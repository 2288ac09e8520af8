"""The doctor says what is missing and how to mend it, and the ports are said once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from local import doctor
from local.addresses import Ports, data_folder
from local.environments import digests, is_current, read_stamp
from local.layout import ROOT
from local.ports import HOST, free_ports, holder
from nearline.errors import Misconfigured

GIB = 1024**3


def test_the_doctor_prints_one_line_for_each_check() -> None:
    lines = [finding.line() for finding in doctor.examine()]
    assert [line for line in lines if "\n" in line] == []
    assert {"machine", "python", "headers", "disk", "memory"} <= {line.split()[1] for line in lines}


def test_the_doctor_needs_the_standard_library_only() -> None:
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import local.doctor"]
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(("version", "good"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), False)])
def test_only_pythons_that_every_environment_has_are_good(version: tuple[int, int], good: bool) -> None:
    assert doctor.python(version).good is good


@pytest.mark.parametrize(
    ("system", "architecture", "good"),
    [("Linux", "x86_64", True), ("Linux", "aarch64", False), ("Darwin", "arm64", False)],
)
def test_other_machines_are_sent_to_docker(system: str, architecture: str, good: bool) -> None:
    finding = doctor.machine(system, architecture)
    assert finding.good is good
    assert good or "docker compose" in finding.line()


def test_missing_headers_name_the_package(tmp_path: Path) -> None:
    finding = doctor.headers(tmp_path)
    assert not finding.good
    assert "-dev" in finding.line()


def test_a_missing_libpython_is_seen_and_a_present_one_is_named(tmp_path: Path) -> None:
    assert not doctor.shared_library("libpython3.11.so.1.0", [tmp_path]).good
    (tmp_path / "libpython3.11.so.1.0").touch()
    assert doctor.shared_library("libpython3.11.so.1.0", [tmp_path]).found == str(tmp_path / "libpython3.11.so.1.0")


def test_a_program_that_is_not_there_names_its_package() -> None:
    assert "apt install g++" in doctor.command("C++ compiler", "no-such-compiler", package="g++").line()


def test_less_disk_is_enough_once_the_environments_are_built() -> None:
    assert not doctor.disk(2 * GIB, built=False).good
    assert doctor.disk(2 * GIB, built=True).good


def test_little_memory_warns_and_does_not_refuse() -> None:
    finding = doctor.memory(1 * GIB)
    assert not finding.good
    assert not finding.essential
    assert doctor.available_memory("MemTotal: 9 kB\nMemAvailable:   2048 kB\n") == 2 * 1024 * 1024


def test_a_held_port_names_its_holder_and_how_to_move_ours() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        number = other.getsockname()[1]
        finding = doctor.port("retrieval", number, ours=False)
        assert not finding.good
        assert f"pid {os.getpid()}" in finding.line()
        assert "NEARLINE_RETRIEVAL_PORT" in finding.line()
        assert doctor.port("retrieval", number, ours=True).good


def test_a_free_port_is_good_and_nobody_holds_it() -> None:
    number = free_ports(1)[0]
    assert doctor.port("kafka", number, ours=False).good
    assert holder(number) == "another user's process"


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_moved_port_takes_its_neighbours_along() -> None:
    moved = Ports.from_environment({"NEARLINE_KAFKA": "localhost:19092", "NEARLINE_TRITON": "127.0.0.1:18001"})
    assert (moved.kafka, moved.kafka_controller) == (19092, 19093)
    assert (moved.triton, moved.triton_metrics) == (18001, 18002)
    assert moved.retrieval == Ports().retrieval


@pytest.mark.parametrize("value", ["kafka.example:9092", "127.0.0.1:http", "127.0.0.1:80", ""])
def test_an_address_that_one_machine_cannot_serve_is_refused(value: str) -> None:
    with pytest.raises(Misconfigured, match="NEARLINE_KAFKA"):
        Ports.from_environment({"NEARLINE_KAFKA": value})


def test_the_ports_that_parts_use_by_default_are_the_ones_that_are_started() -> None:
    settings_module = pytest.importorskip("nearline.settings")
    assert settings_module.load_settings({}).model_dump() == (
        settings_module.load_settings(Ports().environment()).model_dump()
    )


def test_ports_survive_the_way_through_the_environment() -> None:
    ports = Ports(
        kafka=20000,
        kafka_controller=20001,
        kafka_metrics=20002,
        triton=21001,
        triton_metrics=21002,
    )
    assert Ports.from_environment(ports.environment()) == ports


def test_the_data_folder_is_in_the_checkout_unless_it_is_set(tmp_path: Path) -> None:
    assert data_folder({}) == ROOT / ".nearline"
    assert data_folder({"NEARLINE_DATA": str(tmp_path)}) == tmp_path


def test_an_environment_is_current_only_for_the_lists_that_it_was_built_from(tmp_path: Path) -> None:
    services, dev = tmp_path / "services.txt", tmp_path / "dev.txt"
    services.write_text("a==1\n")
    dev.write_text("b==1\n")
    both = digests([services, dev])
    assert is_current(both, digests([services]))
    assert not is_current(digests([services]), both)
    services.write_text("a==2\n")
    assert not is_current(both, digests([services]))


def test_an_unfinished_environment_has_no_stamp(tmp_path: Path) -> None:
    assert read_stamp(tmp_path) == {}
    (tmp_path / "nearline-stamp.json").write_text('{"services.txt": "12')
    assert read_stamp(tmp_path) == {}
