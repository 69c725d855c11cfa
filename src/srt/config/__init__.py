"""Configuration: what a workflow run is made of, read from YAML and checked. Imports no torch and no Snakemake."""

from srt.config.loading import DEFAULT, load_config, read_resolved, read_yaml
from srt.config.root import Config

__all__ = ["DEFAULT", "Config", "load_config", "read_resolved", "read_yaml"]
