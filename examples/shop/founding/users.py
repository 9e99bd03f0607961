"""User service of the founding design: it generates its response instead of reading a database.

``python users.py`` serves it with Flask's own server on ``PORT`` (5001); ``founding.users:app`` is the application.
"""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/user/<user_id>")
def user(user_id: str) -> Response:
    return jsonify({"user_id": user_id, "username": f"user_{user_id}", "email": f"user_{user_id}@example.com"})


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5001")))
