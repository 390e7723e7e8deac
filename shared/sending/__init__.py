"""The sending loop of any channel: fetch → begin → render → send → finish or fail."""
