"""How many instances a service needs, and how much load a system can carry: decisions without I/O and clock."""
