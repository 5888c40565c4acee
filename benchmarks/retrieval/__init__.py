"""How well searches find what is right: recall and nDCG of vector, text and hybrid search."""
