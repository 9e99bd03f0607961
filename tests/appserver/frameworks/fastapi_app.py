"""FastAPI: its documentation behind a prefix, models, an upload, a task after the response, a WebSocket, a lifespan."""

from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, UploadFile, WebSocket
from pydantic import BaseModel

sent = []
state = {}


@asynccontextmanager
async def lifespan(app):
    state["started"] = True
    yield
    state.clear()


app = FastAPI(title="Items", lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None):
    return {"item_id": item_id, "q": q, **state}


@app.post("/items/", status_code=201)
async def create_item(item: Item) -> Item:
    return item


@app.post("/uploadfile/")
async def create_upload_file(file: UploadFile):
    return {"filename": file.filename, "octets": len(await file.read())}


@app.post("/send-notification/{email}")
async def send_notification(email: str, tasks: BackgroundTasks):
    tasks.add_task(sent.append, email)
    return {"message": "it will be sent"}


@app.get("/sent")
async def list_sent():
    return sent


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text(f"{websocket.url} of {websocket.client.host}")
    async for text in websocket.iter_text():
        await websocket.send_text(f"Message text was: {text}")
