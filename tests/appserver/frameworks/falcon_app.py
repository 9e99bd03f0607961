"""Falcon: resources with media, a stream of a request's body, its own errors."""

import falcon


class Quote:
    def on_get(self, request, response):
        response.media = {"quote": "I've always been more interested in the future.", "uri": request.uri}

    def on_put(self, request, response):
        octets = 0
        while piece := request.bounded_stream.read(64 * 1024):
            octets += len(piece)
        response.media = {"octets": octets, "remote": request.remote_addr, "access": request.access_route}

    def on_delete(self, request, response):
        raise falcon.HTTPConflict(title="It is in use")


app = falcon.App()
app.add_route("/quote", Quote())
