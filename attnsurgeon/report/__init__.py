"""Values -> what people and programs read: terminal tables, JSON, one HTML page.

The only door to rich. Nothing is worked out here: `record` turns the engine's values into plain
ones, every other file lays plain values out.
"""
