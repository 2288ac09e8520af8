"""Generates data/tea-shop: an invented shop's tables, in a shop's own format, with a fixed seed.

    python3 -m tools.tea_shop [FOLDER]

docs/your-own-data.md uses it in place of your own data. Customers prefer one or two kinds of tea, so there is something
to learn, and a fifth of their events is random.
"""

import csv
import random
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "data" / "tea-shop"
KINDS = {
    "green": ("Sencha", "Gyokuro", "Bancha", "Dragon Well", "Gunpowder", "Jasmine Pearls"),
    "black": ("Assam", "Darjeeling", "Ceylon", "Keemun", "Earl Grey", "Lapsang Souchong"),
    "oolong": ("Tieguanyin", "Dong Ding", "Milk Oolong", "Oriental Beauty", "Da Hong Pao", "Formosa"),
    "white": ("Silver Needle", "White Peony", "Moonlight", "Long Life Eyebrow", "White Darjeeling", "Snow Bud"),
    "herbal": ("Camomile", "Peppermint", "Rooibos", "Lemon Verbena", "Hibiscus", "Nettle"),
    "pots": ("Cast Iron Pot", "Glass Pot", "Clay Pot", "Porcelain Pot", "Kyusu", "Travel Flask"),
}
SIZES = ("50 g", "100 g", "250 g", "tasting box")
MAKERS = ("Hill & Leaf", "Morning Garden", "Old Harbour", "Three Springs")
FLAVOURS = ("floral", "grassy", "malty", "smoky", "citrus", "honey", "nutty", "fresh")
COUNTRIES = ("DE", "FR", "GB", "NL", "PL")
CUSTOMERS, DAYS = 400, 90
BEGIN = datetime(2026, 6, 1)
CsvRow = tuple[object, ...]


def products(chance: random.Random) -> Iterator[CsvRow]:
    """Yield every tea in every size: number, name, kind, price, maker, flavours, listing date."""
    number = 0
    for kind, names in KINDS.items():
        for name in names:
            for size in SIZES:
                number += 7
                price = round(chance.uniform(3, 12) * (1 + SIZES.index(size)), 2)
                flavours = "/".join(sorted(chance.sample(FLAVOURS, 2)))
                since = (BEGIN - timedelta(days=chance.randrange(400))).date()
                yield f"{number:05}", f"{name}, {size}", kind, price, chance.choice(MAKERS), flavours, since


def visits(chance: random.Random, sold: list[CsvRow], likes: dict[str, list[str]]) -> Iterator[CsvRow]:
    """Yield who viewed, saved or bought which item and when, in the order of time."""
    of_kind = {kind: [row for row in sold if row[2] == kind] for kind in KINDS}
    rows = []
    for customer, kinds in likes.items():
        for _ in range(chance.randint(2, 8)):
            moment = BEGIN + timedelta(seconds=chance.randrange(DAYS * 86_400))
            device = chance.choice(("phone", "desktop"))
            for _ in range(chance.randint(1, 6)):
                among = sold if chance.random() < 0.2 else of_kind[chance.choice(kinds)]
                what = chance.choices(("seen", "basket", "bought"), (6, 2, 1))[0]
                rows.append((moment, customer, chance.choice(among)[0], what, device))
                moment += timedelta(seconds=chance.randint(20, 300))
    return (
        (customer, sku, what, f"{moment:%Y-%m-%d %H:%M:%S}", device)
        for moment, customer, sku, what, device in sorted(rows)
    )


def write(folder: Path) -> None:
    """Write the three tables to *folder*; always the same bytes."""
    chance = random.Random(7)
    sold = list(products(chance))
    likes = {f"C{nth:04}": chance.sample(list(KINDS), chance.randint(1, 2)) for nth in range(1, CUSTOMERS + 1)}
    _table(folder / "products.csv", ("sku", "name", "kind", "price", "maker", "flavours", "added"), sold)
    _table(folder / "visits.csv", ("customer", "sku", "what", "at", "device"), visits(chance, sold, likes))
    told = ((customer, chance.choice(COUNTRIES), "/".join(kinds)) for customer, kinds in likes.items())
    _table(folder / "customers.csv", ("customer", "country", "likes"), told)


def _table(file: Path, header: CsvRow, rows: Iterable[CsvRow]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    target.mkdir(parents=True, exist_ok=True)
    write(target)
    print(f"wrote {target}")
