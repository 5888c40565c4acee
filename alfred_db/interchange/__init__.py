"""Files and foreign formats, in and out."""
