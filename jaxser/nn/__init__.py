"""Layers used by more than one system."""
