"""Pages and tables about a whole workflow: provenance, the miniature. The last room to know everything."""
