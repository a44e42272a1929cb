from flask import Flask
from flask_admin import Admin
from flask_admin.contrib.fileadmin import FileAdmin
from flask_admin.contrib.sqla import ModelView
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["SECRET_KEY"] = "not a secret to anybody"
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:////tmp/cakes.db"
app.config["SQLALCHEMY_TRACK_MODIFICATIONS"] = False
db = SQLAlchemy(app)


class Cake(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String)


admin = Admin(app, name="Cakes")
admin.add_view(ModelView(Cake, db.session))
admin.add_view(FileAdmin("/tmp", "/files/", name="Files"))
db.create_all()
