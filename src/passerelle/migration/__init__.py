"""From the route table of a monolith to a first configuration: sources, traffic, the file, and the progress since."""
