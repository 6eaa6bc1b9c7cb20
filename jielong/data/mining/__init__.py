"""Adverts mined from the corpus itself: fragments that stand in many documents, judged, listed and cut out."""
