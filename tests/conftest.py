"""Fixtures that more than one folder of tests needs. Imports nothing that an environment might lack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.broker import running_broker
from nearline.errors import Misconfigured

_TESTS = Path(__file__).parent


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
