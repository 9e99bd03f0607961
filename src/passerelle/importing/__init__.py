"""First configurations from the files of other gateways: nginx, Traefik, Kong."""
