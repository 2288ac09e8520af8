"""The broker that the contract tests share."""

from collections.abc import Iterator

import pytest

from local.broker import running_broker
from nearline.errors import Misconfigured


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka broker, ended with this folder's tests; use topics and groups of your own names."""
    try:
        with running_broker(tmp_path_factory.mktemp("broker")) as running:
            yield running.bootstrap
    except Misconfigured as problem:
        pytest.fail(f"no broker for the tests: {problem}", pytrace=False)
