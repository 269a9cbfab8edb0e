"""A Flask server as the manuals have it: Flask-Session in the memory of its one process, or in a Redis.

APP_NAME and, for a Redis, APP_REDIS are in the environment.

POST /login?user= begins a session, GET /whoami counts in it, GET /peek only looks, GET /health is for probes.
"""

import os
import uuid

import redis
from cachelib.simple import SimpleCache
from flask import Flask, jsonify, request, session
from flask_session import Session

INSTANCE = str(uuid.uuid4())

app = Flask(__name__)
if url := os.environ.get("APP_REDIS"):
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(url))
else:
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache(threshold=100_000))
Session(app)


def answer():
    return jsonify(
        served_by=os.environ["APP_NAME"],
        user=session.get("user"),
        visits=session.get("visits"),
        rehomed_from=request.headers.get("Stickpin-Rehomed-From"),
        rehome_reason=request.headers.get("Stickpin-Rehome-Reason"),
        session_lost=request.headers.get("Stickpin-Session-Lost"),
        heir=request.headers.get("Stickpin-Heir"),
        pin_seen="stickpin" in request.cookies,
    )


@app.post("/login")
def login():
    session.update(user=request.args["user"], visits=0)
    return answer()


@app.get("/whoami")
def whoami():
    if "user" in session:
        session["visits"] += 1
    return answer()


@app.get("/peek")
def peek():
    return answer()


@app.get("/health")
def health():
    return "UP", {"X-Instance": INSTANCE}
