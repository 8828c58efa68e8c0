"""Recipes: one file per system, each with its paper, command and score."""
