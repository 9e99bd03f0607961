"""Pyramid: routes and their URLs behind a prefix, a view that renders JSON, an exception view."""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response


def hello(request):
    return Response(f"Hello {request.matchdict['name']}!")


def home(request):
    return {"url": request.route_url("hello", name="ada"), "client": request.client_addr}


def go(request):
    return HTTPFound(location=request.route_url("hello", name="ada"))


def missing(request):
    request.response.status = 404
    return {"missing": request.path}


def make_app():
    with Configurator() as config:
        config.add_route("home", "/")
        config.add_route("hello", "/hello/{name}")
        config.add_route("go", "/go")
        config.add_view(home, route_name="home", renderer="json")
        config.add_view(hello, route_name="hello")
        config.add_view(go, route_name="go")
        config.add_notfound_view(missing, renderer="json")
        return config.make_wsgi_app()
