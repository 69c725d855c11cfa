"""Errors, atomic files, locks and progress lines that every room uses. Imports no other room."""
