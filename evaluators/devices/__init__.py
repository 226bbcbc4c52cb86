"""Processors and grid regions as data, and what this machine is."""
