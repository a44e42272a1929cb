import sqlite3

from datasette.app import Datasette

DATABASE = "/tmp/shop.db"
with sqlite3.connect(DATABASE) as database:
    database.execute("create table if not exists cakes (name text primary key, price real)")
    database.execute("insert or replace into cakes values ('Crème brûlée', 4.5)")
application = Datasette([DATABASE]).app()
