"""The one system that the tests of whole answers share: on free ports, with a small catalogue."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local.system import System


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator["System"]:
    """A running system whose answers show every item of the catalogue; ended with this folder's tests."""
    from local.processes import wait_until
    from local.system import embedded_system
    from nearline.items import encode_item
    from nearline.topics import ITEMS
    from tests.e2e.test_whole_system import CATALOGUE, DEADLINE_S, append, shown

    with embedded_system(tmp_path_factory.mktemp("system") / "data", say=print) as running:
        append(running, ITEMS, [(item_id, encode_item(item)) for item_id, item in CATALOGUE.items()])
        everything = set(CATALOGUE)
        assert wait_until(lambda: everything <= set(shown(running, "nobody", k=500)), DEADLINE_S), "items never came"
        yield running
