"""The demo's data set: Online Retail as a catalogue and a log of purchases; rows that a rule drops are counted.

Needs polars, which only the services' and the training environments have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nearline.errors import Misconfigured
from nearline.items import Item

FILE = "online_retail.parquet"
OTHER = "other"
_NO_COUNTRY = "Unspecified"

# The last word of a title that is in this table decides its category; the file itself has no categories.
_KINDS: Mapping[str, str] = {
    "bags": "bag bags handbag backpack purse washbag shopper wallet wallets",
    "storage": "box boxes basket baskets container drawer drawers cabinet tin tins jar jars storage organiser tidy"
    " bucket chest rack trunk crate shelf bin",
    "candles": "candle candles t-light t-lights holder candleholder candlestick candlepot lantern lanterns incense"
    " matches",
    "lighting": "light lights lamp lampshade chandelier",
    "jewellery": "necklace necklac bracelet bracelets earrings ring rings charm bangle beads pendant brooch keyring"
    " hairslide hairclip hairclips comb clips chain",
    "tableware": "mug mugs bowl bowls plate plates cup cups saucer dish tray trays jug teapot cutlery spoon spoons"
    " glass beaker napkins coaster coasters placemats apron platter bottle cosy doily doilies cakestand",
    "baking": "cases baking cake cakes jelly moulds scales pantry recipe",
    "wall and door": "sign signs hook hooks hanger hangers frame frames clock clocks mirror mirrors knob knobs"
    " doorstop doormat cornice thermometer hanging",
    "christmas": "christmas bauble baubles reindeer stocking snowman advent santa",
    "decorations": "decoration decorations garland bunting ornament ornaments bell bells wreath easter egg eggs"
    " flower flowers dec decs",
    "stationery": "card cards notebook sketchbook journal pen pens pencil pencils ruler sticker stickers tape wrap tag"
    " tags tissues album book books rubber eraser erasers letters magnet magnets",
    "party": "balloon balloons straws party birthday cones",
    "textiles": "cushion cover covers throw quilt curtain blanket towel towels flannel rug",
    "garden": "garden parasol windmill pot pots planter hammock gnome herb plant umbrella",
    "toys": "toy toys doll dolls dolly helicopter game games jigsaw puzzle skittles playhouse teddy bunny dominoes"
    " ludo",
    "craft": "kit kits patches ribbon ribbons sewing knitting feltcraft craft",
    "warmers": "warmer warmers hottie",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items by id, and events in their total order.

    ``events`` has the columns user_id, item_id, type, time_ms, value, event_id, country, sorted by (time_ms, event_id);
    the country is the invoice's, null if it has none. ``dropped`` counts rows by reason, in the order of the rules.
    """

    items: Mapping[str, Item]
    events: pl.DataFrame
    dropped: Mapping[str, int]
    rows: int

    def report(self) -> str:
        """A few lines for people: rows read, rows dropped by reason, events, users and items left."""
        lines = [f"{self.rows:,} rows read"]
        lines += [f"{count:>9,} dropped: {reason}" for reason, count in self.dropped.items()]
        users = self.events["user_id"].n_unique()
        lines.append(f"{self.events.height:,} events of {users:,} users on {len(self.items):,} items")
        return "\n".join(lines)


def load_online_retail(folder: Path) -> Prepared:
    """Read and prepare ``online_retail.parquet`` in *folder*; the same file gives the same result.

    An event is one user's purchase of one item in one invoice; its value is the amount paid. An item's title is its
    most frequent description and its price the median, over all kept rows; ``listed_ms`` is its first sale; the
    category is derived from the title (``category_derived``). ``Misconfigured`` if the file is missing.
    """
    raw = _read(Path(folder) / FILE)
    sales, dropped = _clean(raw)
    events = _events(sales)
    repeated = sales.height - events.height
    return Prepared(
        items=_items(sales),
        events=events,
        dropped={**dropped, "same item again in one invoice (merged)": repeated},
        rows=raw.height,
    )


def derived_category(title: str) -> str:
    """The category of the last word of *title* that has one, or ``other``."""
    words = title.casefold().replace(",", " ").split()
    return next((_CATEGORY_OF[word] for word in reversed(words) if word in _CATEGORY_OF), OTHER)


_CATEGORY_OF = {word: category for category, words in _KINDS.items() for word in words.split()}


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise Misconfigured(f"no data set at {path}; expected the folder data/online-retail of the repository")
    text = pl.col("InvoiceNo", "StockCode", "Description", "Country").cast(pl.String)
    return pl.read_parquet(path).with_columns(text)


def _clean(raw: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply the rules one after the other, counting dropped rows by reason."""
    rules = {
        "code of a service, not an item": pl.col("StockCode").str.contains(r"^\d{5}"),
        "no customer": pl.col("CustomerID").is_not_null(),
        "cancelled invoice": ~pl.col("InvoiceNo").str.starts_with("C"),
        "quantity not above 0": pl.col("Quantity") > 0,
        "price not above 0": pl.col("UnitPrice") > 0,
    }
    dropped: dict[str, int] = {}
    left = raw
    for reason, rule in rules.items():
        before = left.height
        left = left.filter(rule)
        dropped[reason] = before - left.height
    return left, dropped


def _events(sales: pl.DataFrame) -> pl.DataFrame:
    """One event per user, item and invoice, at the invoice's first minute."""
    time_ms = pl.col("InvoiceDate").dt.epoch("ms").min().over("InvoiceNo")
    paid = (pl.col("Quantity") * pl.col("UnitPrice").cast(pl.Float64)).sum().round(2)
    merged = (
        sales.with_columns(time_ms.alias("time_ms"))
        .group_by("CustomerID", "StockCode", "InvoiceNo")
        .agg(pl.col("time_ms").first(), paid.alias("value"), pl.col("Country").first())
    )
    return merged.select(
        pl.col("CustomerID").cast(pl.String).alias("user_id"),
        pl.col("StockCode").alias("item_id"),
        pl.lit("purchase").alias("type"),
        pl.col("time_ms"),
        pl.col("value"),
        pl.format("or-{}-{}", "InvoiceNo", "StockCode").alias("event_id"),
        pl.col("Country").replace(_NO_COUNTRY, None).alias("country"),
    ).sort("time_ms", "event_id")


def _items(sales: pl.DataFrame) -> dict[str, Item]:
    titles = (
        sales.with_columns(pl.col("Description").str.strip_chars().str.replace_all(r"\s+", " "))
        .group_by("StockCode", "Description")
        .len()
        .sort("StockCode", "len", "Description", descending=[False, True, False])
        .group_by("StockCode", maintain_order=True)
        .agg(pl.col("Description").first())
    )
    facts = sales.group_by("StockCode").agg(
        pl.col("UnitPrice").cast(pl.Float64).median().round(2).alias("price"),
        pl.col("InvoiceDate").dt.epoch("ms").min().alias("listed_ms"),
    )
    return {row["StockCode"]: _item(row) for row in titles.join(facts, on="StockCode").sort("StockCode").to_dicts()}


def _item(row: Mapping[str, object]) -> Item:
    title = str(row["Description"])
    return Item(
        title=title,
        category=derived_category(title),
        locale="en",
        price=float(str(row["price"])),
        listed_ms=int(str(row["listed_ms"])),
        attributes={"category_derived": True},
    )
