"""Whether, when and how much: circuit breaker, retry budget, adaptive limit, admission, hedge delay."""
