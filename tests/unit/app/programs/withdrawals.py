"""Money that leaves accounts: windowed sums by the event's own date, in two kinds of windows."""
# mypy: ignore-errors

from datetime import UTC, datetime, timedelta

import streamflow as faust


class Withdrawal(faust.Record, isodates=True, serializer="json"):
    user: str
    country: str
    amount: float
    date: datetime = None


app = faust.App("withdrawals", broker="kafka://127.0.0.1:9092", version=2, origin="withdrawals")
withdrawals_topic = app.topic("withdrawals", key_type=str, value_type=Withdrawal)

user_to_total = app.Table("user_to_total", default=int).tumbling(3600).relative_to_stream()
country_to_total = (
    app.Table("country_to_total", default=float)
    .tumbling(10.0, expires=timedelta(minutes=10))
    .relative_to_field(Withdrawal.date)
)
recent = app.Table("recent", default=int).hopping(20, 10, expires=timedelta(hours=1))
large = []


@app.agent(withdrawals_topic)
async def track_user_withdrawal(withdrawals):
    async for withdrawal in withdrawals:
        user_to_total[withdrawal.user] += withdrawal.amount
        recent[withdrawal.user] += 1


@app.agent(withdrawals_topic)
async def track_country_withdrawal(withdrawals):
    async for withdrawal in withdrawals.filter(lambda w: w.amount > 0):
        country_to_total[withdrawal.country] += withdrawal.amount


@app.agent(withdrawals_topic)
async def find_large(withdrawals):
    async for number, withdrawal in withdrawals.enumerate(1):
        if withdrawal.amount > 1000:
            large.append((number, withdrawal.user, country_to_total[withdrawal.country].delta(30)))


def at(seconds):
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
