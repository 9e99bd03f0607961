"""The crossing as a walk: from the monolith to the composed services, under load, and with faulty services."""
