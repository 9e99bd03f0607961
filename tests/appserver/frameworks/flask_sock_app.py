"""flask-sock: a WebSocket that echoes, made by a factory."""

from flask import Flask
from flask_sock import Sock


def create_app(greeting):
    app = Flask(__name__)
    sock = Sock(app)

    @app.get("/")
    def index():
        return "Hello"

    @sock.route("/echo")
    def echo(ws):
        ws.send(greeting)
        while True:
            ws.send(ws.receive())

    return app
