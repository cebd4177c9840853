"""The command `maenas`: one file a group of commands; each parses, calls the library and prints."""
