from fastapi import FastAPI
from sqladmin import Admin, ModelView
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base

engine = create_engine("sqlite:////tmp/cakes.db", connect_args={"check_same_thread": False})
Base = declarative_base()


class Cake(Base):
    __tablename__ = "cakes"
    id = Column(Integer, primary_key=True)
    name = Column(String)


class CakeAdmin(ModelView, model=Cake):
    column_list = [Cake.id, Cake.name]


Base.metadata.create_all(engine)
app = FastAPI(title="Cakes")
Admin(app, engine).add_view(CakeAdmin)
