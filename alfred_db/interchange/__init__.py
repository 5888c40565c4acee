"""Import and export of files and foreign formats."""
