"""Bytes that training sends."""
