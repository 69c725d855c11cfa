"""Contamination audit: which test questions are in a training set, and what the results are without them.

`sets` says which data sets of a configuration are compared, `overlap` compares two of them, `tables` writes what was
found, `picture` draws it, `decontaminate` recomputes the results on the clean rows. Texts: `srt.data.text`.
"""
