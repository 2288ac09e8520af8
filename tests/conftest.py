"""Fixtures that more than one folder of tests needs. Imports nothing that an environment might lack."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

_TESTS = Path(__file__).parent
_ONE_SYSTEM = "tests/e2e/test_whole_system"  # these files share a running system, which takes 50 s of processor time

# The tests start dozens of JVMs that live for seconds. The optimising compiler costs each of them more processor time
# than it saves: a broker takes 4.4 s of it to start instead of 7.8 s.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
# Workers of xdist begin with COLUMNS=80, and the command line would cut its tables to that width.
os.environ.pop("COLUMNS", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling":
    """With several workers: each takes file after file in the usual order; files that share a system stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
        def _split_scope(self, nodeid: str) -> str:
            return _ONE_SYSTEM if nodeid.startswith(_ONE_SYSTEM) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the longest come first as it is: contract, e2e, flink, then unit
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder that it lies in (unit, contract, flink, e2e, model)."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if (_TESTS / folder).is_dir():
            item.add_marker(folder)


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio, as the services do."""
    return "asyncio"
