"""Varnish: as a cache in memory, or passing every request to the backends, round robin, without storing anything."""

from __future__ import annotations

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program


class Varnish:
    name = "varnish"

    def missing(self) -> str | None:
        return lacks_program("varnishd", "varnish")

    def version(self) -> str:
        return first_line("varnishd", "-V")

    def forward(self, site: Site) -> Command:
        return self._command(site, "set req.backend_hint = all.backend(); return (pass);", 64)

    def cached(self, site: Site, memory: int) -> Command:
        return self._command(site, "set req.backend_hint = all.backend();", memory >> 20)

    def _command(self, site: Site, received: str, megabytes: int) -> Command:
        backends, added = [], []
        for number, upstream in enumerate(site.upstreams):
            host, _, port = upstream.rpartition(":")
            backends.append(f'backend b{number} {{ .host = "{host}"; .port = "{port}"; }}')
            added.append(f"  all.add_backend(b{number});")
        file = site.write(
            "site.vcl",
            "\n".join(
                [
                    "vcl 4.1;",
                    "import directors;",
                    *backends,
                    "sub vcl_init {",
                    "  new all = directors.round_robin();",
                    *added,
                    "}",
                    f"sub vcl_recv {{ {received} }}",
                    "",
                ]
            ),
        )
        argv = [program("varnishd"), "-F", "-j", "none", "-n", str(site.folder / "state"), "-f", str(file)]
        return Command([*argv, "-a", f"127.0.0.1:{site.port}", "-s", f"malloc,{megabytes}m", "-p", "thread_pools=1"])
