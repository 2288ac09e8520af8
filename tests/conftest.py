"""Fixtures that more than one folder of tests needs. Imports nothing that an environment might lack."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.broker import running_broker
from nearline.errors import Misconfigured

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

_TESTS = Path(__file__).parent
_ONE_SYSTEM = ("e2e", "flink")  # folders whose files share a running system, which takes a minute of two cores to start

# The tests start dozens of JVMs that live for seconds. The optimising compiler costs each of them more processor time
# than it saves: a broker takes 4.4 s of it to start instead of 7.8 s.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
# Workers of xdist begin with COLUMNS=80, and the command line would cut its tables to that width.
os.environ.pop("COLUMNS", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling":
    """With several workers: each takes file after file in the usual order, and a folder that shares a system as one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.split("/")[1]
            return folder if folder in _ONE_SYSTEM else file

    config.option.loadscopereorder = False  # the longest come first as it is: contract, e2e, flink, then unit
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder that it lies in (unit, contract, flink, e2e, model)."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if (_TESTS / folder).is_dir():
            item.add_marker(folder)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka broker of this test run; use topics and groups with names of your own."""
    try:
        with running_broker(tmp_path_factory.mktemp("broker")) as running:
            yield running.bootstrap
    except Misconfigured as problem:
        pytest.fail(f"no broker for the tests: {problem}", pytrace=False)


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio, as the services do."""
    return "asyncio"
