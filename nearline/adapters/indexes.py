"""Chooses the item index that a URL names."""

from urllib.parse import urlsplit

from nearline.errors import Misconfigured
from nearline.item_engine import ItemEngine
from nearline.space import Space


def engine_for(url: str, space: Space, *, read_ms: int) -> ItemEngine | None:
    """The engine that *url* names, not yet open, or ``None`` for the index in this process (``hnsw://``).

    ``Misconfigured`` for an unknown scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme == "hnsw":
        return None
    if scheme in ("milvus", "milvuss"):
        return _milvus(url, space, read_ms)
    raise Misconfigured(
        f"the index must be hnsw:// (in this process) or milvus://[user:password@]host:19530[/database], "
        f"came the scheme {scheme!r}"
    )


def _milvus(url: str, space: Space, read_ms: int) -> ItemEngine:
    try:
        from nearline.adapters.milvus import MilvusItems, parse_address
    except ModuleNotFoundError as missing:
        raise Misconfigured(
            f"{missing.name} is not installed here: retrieval on Milvus runs in the environment that "
            "`python3 -m local.environments milvus` builds"
        ) from None
    return MilvusItems(parse_address(url), space, read_ms=read_ms)
