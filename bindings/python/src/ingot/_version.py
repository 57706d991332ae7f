"""The package's version: that of the header its prototypes were written for (a test compares them)."""

__version__ = "0.1.0"
