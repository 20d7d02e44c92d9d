"""A run as one HTML page that opens offline: what the stages wrote, to look at and to read."""
