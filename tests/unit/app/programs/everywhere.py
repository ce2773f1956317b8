"""A table of rates that every worker reads, and orders that are priced by it."""
# mypy: ignore-errors

import streamflow as faust

app = faust.App("rates", broker="kafka://localhost:9092")
rates_topic = app.topic("rates", key_type=str, value_type=float, partitions=1)
orders_topic = app.topic("orders", key_type=str, value_type=dict, partitions=1)
rates = app.GlobalTable("rates_table", default=float, partitions=1)
closed = []


async def on_close(key, value):
    closed.append((key[0], value))


volume = app.Table("volume", default=float, on_window_close=on_close).tumbling(10, expires=1)
priced = []


@rates.on_recover
async def ready():
    priced.append("ready")


@app.agent(rates_topic)
async def learn(stream):
    async for currency, rate in stream.items():
        rates[currency] = rate


@app.agent(orders_topic)
async def price(stream):
    async for order in stream:
        priced.append(round(order["amount"] * rates[order["currency"]], 2))
        volume[order["currency"]] += order["amount"]
