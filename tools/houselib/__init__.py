"""What tools/house checks: table.py says how the house is built, known.txt what is not so yet."""
