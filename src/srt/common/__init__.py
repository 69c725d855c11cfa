"""Errors, atomic files, locks and progress that every room uses. Imports no other room."""
