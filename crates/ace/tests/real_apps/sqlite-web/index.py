import sqlite3

from sqlite_web.sqlite_web import app as application
from sqlite_web.sqlite_web import initialize_app

DATABASE = "/tmp/shop.db"
with sqlite3.connect(DATABASE) as database:
    database.execute("create table if not exists cakes (name text, price real)")
initialize_app([DATABASE])
