"""Starlette: a streamed response, the request's own URL, a task after the response."""

import asyncio

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

done = []


async def homepage(request):
    task = BackgroundTask(done.append, "homepage")
    body = {"url": str(request.url), "for": str(request.url_for("slow_numbers")), "client": request.client.host}
    return JSONResponse(body, background=task)


async def tasks(request):
    return JSONResponse(done)


async def slow_numbers(request):
    async def numbers():
        for number in range(1, 11):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(numbers(), media_type="text/plain")


app = Starlette(
    routes=[Route("/", homepage), Route("/numbers", slow_numbers, name="slow_numbers"), Route("/tasks", tasks)]
)
