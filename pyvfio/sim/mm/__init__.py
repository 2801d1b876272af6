"""Pages of memory, and who has pinned them."""
