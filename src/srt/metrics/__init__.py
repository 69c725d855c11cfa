"""Statistics, intervals, the collapse alarm and tables over evaluations. Imports no torch."""
