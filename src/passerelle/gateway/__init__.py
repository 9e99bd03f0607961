"""The gateway: routes compiled to plans, and the straight line that carries a request through one."""
