"""Bottle: one file, a template, a file that is sent in parts, cookies."""

from pathlib import Path

from bottle import Bottle, redirect, request, response, static_file, template

app = Bottle()


@app.route("/hello/<name>")
def index(name):
    return template("<b>Hello {{name}}</b>!", name=name)


@app.route("/login", method="POST")
def login():
    response.set_cookie("account", request.forms.get("user"), secret="of-a-test")
    redirect("whoami")


@app.route("/whoami")
def whoami():
    return request.get_cookie("account", secret="of-a-test") or "nobody"


@app.route("/static/<filename>")
def server_static(filename):
    return static_file(filename, root=Path(__file__).parent)
