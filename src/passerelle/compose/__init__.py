"""One response out of several: the requests for the parts, their join, and the cacheable whole."""
