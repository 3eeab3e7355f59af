"""Checks of the deployed path from the outside: is the noise there, and do releases show who took part?"""
