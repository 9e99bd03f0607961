"""Litestar: handlers with types, validation, its OpenAPI document."""

from dataclasses import dataclass

from litestar import Litestar, get, post
from litestar.response import ServerSentEvent


@dataclass
class Book:
    title: str
    pages: int


@get("/books/{book_id:int}")
async def get_book(book_id: int) -> dict[str, int]:
    return {"book_id": book_id}


@post("/books")
async def add_book(data: Book) -> Book:
    return data


@get("/events", sync_to_thread=False)
def events() -> ServerSentEvent:
    return ServerSentEvent(str(number) for number in range(3))


app = Litestar([get_book, add_book, events])
