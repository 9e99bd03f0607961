"""passerelle: an API gateway, load balancer, shared cache and service runner."""

__version__ = "0.1.0"
