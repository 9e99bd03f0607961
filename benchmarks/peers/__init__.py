"""Configuration of each gateway for each kind of work: one small class per product, passerelle included."""
