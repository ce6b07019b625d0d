"""Recipes that are carried out, stage by stage."""
