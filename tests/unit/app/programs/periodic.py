"""Timers, a crontab, a service, a task of the leader, signals; and a command of one's own."""
# mypy: ignore-errors

import streamflow as faust
from streamflow.cli import argument, option

app = faust.App("periodic", broker="kafka://localhost:9092")
log = []


@app.on_configured.connect
def configured(app, conf, **kwargs):
    log.append("configured")


ticks = app.topic("ticks", value_type=int)


@app.timer(interval=0.02)
async def tick():
    await ticks.send(value=len(log))


@app.timer(0.02, on_leader=True)
async def lead():
    log.append("leader")


@app.crontab("0 12 * * *", on_leader=True)
async def noon():
    log.append("noon")


@app.agent(ticks)
async def count(stream):
    async for _ in stream:
        log.append("tick")


@app.service
class Background(faust.Service):
    async def on_start(self):
        log.append("service")

    @faust.Service.timer(0.02)
    async def work(self):
        log.append("service timer")


@app.task()
async def once():
    log.append("task")


@app.command(argument("name"), option("--loud/--quiet", default=False))
async def hello(self, name: str, loud: bool):
    """Says hello."""
    self.say(f"HELLO {name}" if loud else f"hello {name}")


if __name__ == "__main__":
    app.main()
