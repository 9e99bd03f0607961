"""The directives of nginx, grouped by how they are carried over."""

from __future__ import annotations

# What passerelle does in any case, or what is about the process of nginx alone.
SAME = frozenset(
    {
        *("accept_mutex", "daemon", "default_type", "etag", "events", "http", "http2", "ignore_invalid_headers"),
        *("index", "internal", "keepalive", "keepalive_requests", "keepalive_timeout", "location", "merge_slashes"),
        *("mime.types", "multi_accept", "open_file_cache", "pid", "proxy_buffering", "proxy_buffers"),
        *("proxy_buffer_size", "proxy_busy_buffers_size", "proxy_cache_path", "proxy_http_version"),
        *("proxy_max_temp_file_size", "proxy_request_buffering", "proxy_socket_keepalive", "recursive_error_pages"),
        *("reset_timedout_connection", "root", "sendfile", "server", "server_name", "server_names_hash_bucket_size"),
        *("server_names_hash_max_size", "server_tokens", "ssl_prefer_server_ciphers", "tcp_nodelay", "tcp_nopush"),
        *("types", "types_hash_bucket_size", "types_hash_max_size", "upstream", "use", "user", "worker_connections"),
        *("absolute_redirect", "large_client_header_buffers", "proxy_pass_request_body", "server_name_in_redirect"),
        *("chunked_transfer_encoding", "client_body_buffer_size", "client_header_buffer_size", "proxy_pass_header"),
        *("open_file_cache_errors", "open_file_cache_min_uses", "open_file_cache_valid"),
        *("proxy_cache_lock", "proxy_cache_lock_age"),
        *("proxy_cache_lock_timeout", "ssl_session_cache", "ssl_session_tickets", "ssl_session_timeout"),
        *("worker_rlimit_nofile", "include", "zone", "gzip_vary", "gzip_proxied", "gzip_comp_level", "limit_req_zone"),
        *("gzip_disable", "gzip_buffers", "gzip_http_version", "proxy_headers_hash_max_size", "limit_conn_zone"),
        *("proxy_headers_hash_bucket_size", "access_log", "error_log", "log_format", "log_not_found"),
    }
)
# Directives that decide who may use a location, and that have no counterpart: the route responds 501.
ACCESS = {
    "auth_basic": "write basic with the file, whose hashes are bcrypt or argon2, and auth: [basic] of the route",
    "auth_jwt": "write jwt and auth of the route",
    "auth_delay": "it belongs to an authentication that was not carried over",
    "satisfy": "passerelle requires all that a route lists",
    "secure_link": "passerelle does not check signed links; a plugin can",
    "valid_referers": "passerelle does not check Referer; a plugin can",
    "ssl_verify_client": "write tls.client_ca, and auth: [mtls] of the route",
    "limit_except": "write methods of a route of its own, with clients",
    "perl": "a plugin can do it in Python",
    "access_by_lua_block": "a plugin can do it in Python",
    "access_by_lua_file": "a plugin can do it in Python",
    "js_access": "a plugin can do it in Python",
}
ACCESS_PREFIXES = ("auth_", "access_by_", "rewrite_by_")
NO_ACCESS = frozenset({"auth_basic_user_file", "auth_request", "auth_request_set"})
WHY = {
    "if": "conditions have no counterpart; write routes, or a plugin",
    "rewrite": "expressions have no counterpart; write rewrite or redirect of a route with parameters",
    "set": "variables have no counterpart",
    "map": "variables have no counterpart; write match of routes, or trusted_proxies for X-Forwarded-Proto",
    "geo": "variables have no counterpart",
    "split_clients": "write split of a route",
    "stream": "passerelle speaks HTTP alone",
    "mail": "passerelle speaks HTTP alone",
    "mirror": "write shadow of a route",
    "sub_filter": "a plugin can change bodies",
    "fastcgi_pass": "passerelle speaks HTTP to services; run the application as app:",
    "uwsgi_pass": "passerelle speaks HTTP to services; run the application as app:",
    "scgi_pass": "passerelle speaks HTTP to services; run the application as app:",
    "grpc_pass": "passerelle speaks HTTP/1.1 to services",
    "worker_processes": "write workers",
    "resolver": "write dns",
    "proxy_send_timeout": "there is one timeout of a request",
    "ssl_protocols": "write tls.minimum",
    "ssl_ciphers": "write tls.ciphers, or none for the default",
    "ssl_ecdh_curve": "write tls.curve, or none for the default",
    "error_page": "write errors: with the file",
    "proxy_next_upstream": "the default of retries is similar; see docs/reference/balancing.md",
}
UNKNOWN = "passerelle has no counterpart for it"
NO_EXPRESSION = "this expression has no counterpart; write paths, with constrained parameters such as {id:int}"
NOT_STORED = "nothing is stored for the routes until someone writes cache: write a route with match for some requests"
# Directives that are carried over where a location uses them.
CARRIED = frozenset(
    {
        *("add_header", "alias", "allow", "auth_request", "client_max_body_size", "deny", "gzip", "gzip_min_length"),
        *("gzip_types", "limit_req", "limit_req_status", "proxy_cache", "proxy_cache_valid", "proxy_connect_timeout"),
        *("proxy_cache_bypass", "proxy_cache_key", "proxy_no_cache"),
        *("proxy_hide_header", "proxy_next_upstream_tries", "proxy_pass", "proxy_read_timeout", "proxy_redirect"),
        *("proxy_set_header", "proxy_ssl_verify", "return", "try_files"),
    }
)
LIMITS = {
    "client_header_timeout": "head_timeout",
    "client_body_timeout": "body_timeout",
    "send_timeout": "write_timeout",
    "keepalive_timeout": "idle_timeout",
}
DEFAULT_BODY = 1024 * 1024
HOST_VARIABLES = ("$host", "$http_host", "$host:$server_port", "$http_host:$server_port")
FORWARDED = {
    "x-forwarded-for": ("$proxy_add_x_forwarded_for", "$remote_addr"),
    "x-forwarded-proto": ("$scheme", "$http_x_forwarded_proto"),
    "x-forwarded-host": ("$host", "$http_host"),
    "upgrade": ("$http_upgrade",),
    "connection": ("", "upgrade", "Upgrade", "$connection_upgrade", '"upgrade"'),
}
BALANCE = {"least_conn": "least_inflight", "random": "p2c", "ip_hash": "hash", "hash": "hash"}
REDIRECTS = (301, 302, 303, 307, 308)
# Keys that only routes to services have.
OF_SERVICES = ("timeout", "body", "attempts", "request_headers", "cache")
