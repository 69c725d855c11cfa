"""Reading the configuration: YAML with unique keys, sections from several files, one sentence for each mistake."""

from srt.config.loading.loader import DEFAULT, load_config, read_resolved
from srt.config.loading.yaml_file import read_yaml

__all__ = ["DEFAULT", "load_config", "read_resolved", "read_yaml"]
