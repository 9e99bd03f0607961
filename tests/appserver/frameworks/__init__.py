"""Applications of eleven frameworks, each in the shape of the first page of its documentation, behind one gateway."""
