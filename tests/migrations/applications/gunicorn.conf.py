bind = "unix:@folder@/app.sock"
wsgi_app = "shop:create_app(proxied=True)"
worker_class = "gthread"
threads = 4
max_requests = 1000
timeout = 30
forwarded_allow_ips = "*"
