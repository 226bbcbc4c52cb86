"""paretune: the configurations of a transformer that nobody can beat on every count at once."""

__version__ = "0.1.0"
