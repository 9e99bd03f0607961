"""How each gateway is set up for each kind of work: one small class a product, ours among them."""
