"""Cohorts and their partition into hospitals."""
