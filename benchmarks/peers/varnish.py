"""Varnish, storing nothing: every request is passed on, to the backends in turn."""

from __future__ import annotations

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program


class Varnish:
    name = "varnish"

    def missing(self) -> str | None:
        return lacks_program("varnishd", "varnish")

    def version(self) -> str:
        return first_line("varnishd", "-V")

    def forward(self, site: Site) -> Command:
        backends, added = [], []
        for number, upstream in enumerate(site.upstreams):
            host, _, port = upstream.rpartition(":")
            backends.append(f'backend b{number} {{ .host = "{host}"; .port = "{port}"; }}')
            added.append(f"  all.add_backend(b{number});")
        file = site.write(
            "forward.vcl",
            "\n".join(
                [
                    "vcl 4.1;",
                    "import directors;",
                    *backends,
                    "sub vcl_init {",
                    "  new all = directors.round_robin();",
                    *added,
                    "}",
                    "sub vcl_recv { set req.backend_hint = all.backend(); return (pass); }",
                    "",
                ]
            ),
        )
        argv = [program("varnishd"), "-F", "-j", "none", "-n", str(site.folder / "state"), "-f", str(file)]
        return Command([*argv, "-a", f"127.0.0.1:{site.port}", "-s", "malloc,64m", "-p", "thread_pools=1"])
