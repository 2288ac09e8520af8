"""Applies the records of the followed topics to the catalogue."""

from collections.abc import Callable

from nearline.item_vectors import decode_item_vector
from nearline.log import Record
from nearline.popularity import decode_popularity
from nearline.space import Space
from services.retrieval.in_process.catalogue import Catalogue


def item_records(catalogue: Catalogue, space: Space) -> Callable[[Record], None]:
    """A function that applies records of ``item-vectors.<space>`` to *catalogue*."""

    def apply(record: Record) -> None:
        if record.value is None:
            catalogue.purge(record.id)
        else:
            catalogue.apply(decode_item_vector(record.id, record.value, space))

    return apply


def popularity_records(catalogue: Catalogue) -> Callable[[Record], None]:
    """A function that applies records of ``item-popularity`` to *catalogue*."""

    def apply(record: Record) -> None:
        if record.value is None:
            catalogue.trending.unscore(record.id)
        else:
            catalogue.trending.score(record.id, decode_popularity(record.value).score)

    return apply
