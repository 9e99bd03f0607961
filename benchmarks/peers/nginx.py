"""nginx, the reference: one worker, persistent upstream connections, with an access log or without."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_FORWARD = 'proxy_pass http://upstreams; proxy_http_version 1.1; proxy_set_header Connection "";'
_LARGE_BUFFERS = "proxy_buffer_size 64k; proxy_buffers 16 64k; client_body_buffer_size 256k;"
_PAGE = '{"user":<!--# include virtual="/user/$u" -->,"product":<!--# include virtual="/product/$p" -->}'


_BUFFERED = "buffer=64k flush=1s"  # passerelle buffers its access log too


def command(site: Site, http: str, connections: int = 4096, *, access_log: bool = False) -> Command:
    """Configure nginx with one worker, all its files in the site's folder, and ``http`` as content of that block.

    The access log is a file in nginx's format ``combined``.
    """
    log = f"{site.folder}/access.log combined {_BUFFERED}" if access_log else "off"
    temporary = "\n".join(f"  {kind}_temp_path {site.folder}/{kind};" for kind in _TEMPORARY)
    file = site.write(
        "nginx.conf",
        f"""daemon off;
worker_processes 1;
pid {site.folder}/nginx.pid;
error_log stderr warn;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections {connections}; }}
http {{
  access_log {log};
  keepalive_requests 100000000;
{temporary}
{http}
}}
""",
    )
    return Command([program("nginx"), "-p", str(site.folder), "-c", str(file), "-e", "stderr"])


def upstream_block(site: Site) -> str:
    """Configure the upstreams: round robin, with persistent connections."""
    servers = " ".join(f"server {address};" for address in site.upstreams)
    return f"  upstream upstreams {{ {servers} keepalive 256; keepalive_requests 100000000; }}"


class Nginx:
    name = "nginx"

    def __init__(self, *, access_log: bool = False) -> None:
        self._access_log = access_log

    def missing(self) -> str | None:
        return lacks_program("nginx", "nginx")

    def version(self) -> str:
        return first_line("nginx", "-v")

    def _command(self, site: Site, http: str, connections: int = 4096) -> Command:
        return command(site, http, connections, access_log=self._access_log)

    def forward(self, site: Site, connections: int = 4096) -> Command:
        return self._command(
            site,
            f"""{upstream_block(site)}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{ {_FORWARD} }}
  }}""",
            connections,
        )

    def cached(self, site: Site, memory: int) -> Command:
        """Cache keys in a zone of a sixteenth of ``memory``, and bodies in files that the kernel keeps in memory."""
        return self._command(
            site,
            f"""{upstream_block(site)}
  proxy_cache_path {site.folder}/cache keys_zone=all:{max(1, memory >> 24)}m max_size={memory >> 20}m inactive=1h;
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{ {_FORWARD} proxy_cache all; }}
  }}""",
        )

    def compose(self, site: Site) -> Command:
        """Compose with server-side includes: both parts are subrequests that nginx sends concurrently."""
        pages = site.folder / "pages"
        pages.mkdir()
        (pages / "page.json").write_text(_PAGE)
        return self._command(
            site,
            f"""{upstream_block(site)}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location ~ ^/api/([^/]+)/([^/]+)$ {{
      set $u $1; set $p $2;
      ssi on; ssi_types application/json; default_type application/json;
      root {pages}; try_files /page.json =404;
    }}
    location / {{ {_FORWARD} }}
  }}""",
        )

    def static(self, site: Site, folder: Path) -> Command:
        """Serve files, sent by the kernel."""
        return self._command(
            site,
            f"""  sendfile on; tcp_nopush on; default_type application/octet-stream; types {{ application/json json; }}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{ root {folder}; }}
  }}""",
        )

    def stream(self, site: Site, buffers: str = "") -> Command:
        """Forward without buffering; by default nginx buffers uploads completely and spills downloads to a file.

        ``buffers`` are directives for buffer sizes; the defaults, 4 KB or 8 KB, cause many system calls.
        """
        return self._command(
            site,
            f"""{upstream_block(site)}
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{ {_FORWARD} {buffers} proxy_request_buffering off; proxy_max_temp_file_size 0; }}
  }}""",
        )


class NginxTuned(Nginx):
    """nginx, tuned for large bodies."""

    name = "nginx-tuned"

    def stream(self, site: Site, buffers: str = _LARGE_BUFFERS) -> Command:
        return super().stream(site, buffers)
