"""One reader per source, the miniature news world, and images in memory. Imports events and config."""
