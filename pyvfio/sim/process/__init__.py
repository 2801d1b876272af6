"""A process: its descriptors, its memory, and what it is charged for."""
