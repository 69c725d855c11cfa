"""FLOPs, bytes and seconds of models and jobs: the one set of formulas. Only `hardware` imports torch at import time.

Knows entries of models and the section `plan` of a configuration, but no runs and no files.
"""
