"""Checks of the deployed path from the outside: is the noise there, and does what leaves tell who took part?"""
