"""Driven systems: responses, memory, drives."""
