"""The search: spaces, tables of them, evolution and the exact solver, requests and their results."""
