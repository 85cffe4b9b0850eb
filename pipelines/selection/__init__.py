"""Selecting images by their scores, and writing what was selected."""
