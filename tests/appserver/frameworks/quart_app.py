"""Quart: server-sent events, a WebSocket, a task in the background."""

from quart import Quart, make_response, url_for, websocket

app = Quart(__name__)
done = []


@app.route("/")
async def hello():
    return {"link": url_for("sse")}


@app.get("/sse")
async def sse():
    async def events():
        for number in range(3):
            yield f"event: count\ndata: {number}\n\n".encode()

    response = await make_response(events(), {"Content-Type": "text/event-stream"})
    response.timeout = None
    return response


@app.websocket("/ws")
async def ws():
    while True:
        await websocket.send(f"echo {await websocket.receive()}")


@app.post("/jobs")
async def start():
    async def work():
        done.append("work")

    app.add_background_task(work)
    return {"state": "started"}, 202


@app.get("/jobs")
async def jobs():
    return done
