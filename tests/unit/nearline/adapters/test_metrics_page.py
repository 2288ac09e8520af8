"""The metrics page: Prometheus can read it, and printing it does not hold up answers."""

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nearline.adapters.http import metrics_page


def registry() -> CollectorRegistry:
    """A family of 400 samples among small ones, one of them empty."""
    own = CollectorRegistry()
    Gauge("up", "Whether\nit is \\ up", registry=own).set(1)
    took = Histogram("took_seconds", "How long", ["route"], registry=own)
    for number in range(20):
        took.labels(f'"{number}"').observe(number)
    Counter("nothing", "No series yet", ["why"], registry=own)
    Counter("done_total", "What was done", registry=own).inc(3)
    return own


def test_the_page_is_what_the_library_would_print() -> None:
    own = registry()
    assert asyncio.run(metrics_page(own)) == generate_latest(own)


def test_others_are_served_while_a_long_page_is_printed() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def story() -> None:
        task = asyncio.create_task(others())
        await metrics_page(registry())
        task.cancel()

    asyncio.run(story())
    assert turns >= 10
