"""A page about the weather on Mars, with a stylesheet and a picture."""

from flask import Flask, render_template

SOLS = [
    {"sol": 1001, "high": -9, "low": -78, "sky": "dust in the afternoon"},
    {"sol": 1002, "high": -12, "low": -80, "sky": "clear"},
    {"sol": 1003, "high": -7, "low": -76, "sky": "clear, blue sunset"},
]

# The gateway serves static/ by itself, as app.yaml says; Flask only makes the links.
application = Flask(__name__)


@application.get("/")
def forecast():
    return render_template("forecast.html", sols=SOLS)


@application.get("/healthz")
def healthz():
    return "ok"


if __name__ == "__main__":
    application.run(debug=True)
