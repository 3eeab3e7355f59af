"""Planes of images and contours in mm, and what they cover of a Case's grid. Arrays alone: no files."""
