"""python-socketio: rooms and events, over polling and over a WebSocket."""

import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event
async def connect(sid, environ):
    await server.emit("welcome", {"from": environ["asgi.scope"]["client"][0]}, to=sid)


@server.event
async def enter(sid, room):
    await server.enter_room(sid, room)
    return room


@server.event
async def say(sid, data):
    await server.emit("said", data["text"], room=data["room"])
    return "sent"
