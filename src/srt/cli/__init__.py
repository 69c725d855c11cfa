"""What a person calls: `srt COMMAND`, one file per command. May import every room; no room imports it."""
