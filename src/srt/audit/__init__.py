"""Contamination audit: which test questions are in a training set, and the results without them. Imports no torch.

resolve          from the configuration: which data sets are compared, which runs are recomputed
overlap          exact and near matches between two problem tables (texts: `srt.data.question_text`)
at_start         equal questions in local files, before the first job
audit_tables     what was found: overlaps, pairs, clean rows, faulty rows
overlap_plot     the matrix of overlaps as a figure
decontaminate    the results on the clean rows
"""
