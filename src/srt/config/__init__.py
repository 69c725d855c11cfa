"""Configuration: pydantic models, loading with one-sentence errors, and the specs that rules hash."""

from srt.config.loading import DEFAULT, load_config, read_yaml
from srt.config.root import Config

__all__ = ["DEFAULT", "Config", "load_config", "read_yaml"]
