"""Flask: links and redirects behind a prefix, an upload, a stream."""

from flask import Flask, Response, redirect, request, url_for

app = Flask(__name__)


@app.get("/")
def index():
    return {"link": url_for("hello", name="Ada"), "full": url_for("hello", name="Ada", _external=True)}


@app.get("/hello/<name>")
def hello(name):
    return f"<p>Hello, {name}!</p>"


@app.get("/old")
def old():
    return redirect(url_for("hello", name="Ada"))


@app.post("/upload")
def upload():
    file = request.files["the_file"]
    return {"name": file.filename, "octets": len(file.read()), "from": request.remote_addr}


@app.get("/count")
def count():
    return Response((f"{number}\n" for number in range(1000)), mimetype="text/plain")
